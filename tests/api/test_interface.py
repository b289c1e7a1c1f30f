"""What `import prunelab` offers, with which arguments, and what it imports."""

import inspect
import subprocess
import sys

import pytest
from helpers.params import PROJECT

import prunelab
from prunelab.api.pruning import DEFAULTS, PruneSettings
from prunelab.config.params import Prune, read_params

SIGNATURES = {
    "prune": "model, example_inputs=None, method='l1_channel', ratio=0.5, budget='macs', *, "
    "data=None, loss=None, train=None, inplace=False, seed=0, **settings",
    "save": "network, path, *, mean=None, std=None, classes=None",
    "load": "path, model=None",
    "evaluate": "model, data, *, against=None",
    "benchmark": "dense, pruned, example_inputs, *, batch_sizes=(1, 32), backend='eager', "
    "rounds=20, seconds=2.0",
    "sensitivity": "model, example_inputs, data=None, *, ratios=(0.3, 0.5, 0.7, 0.9), "
    "units='channel', samples=2048, score=None",
    "export": "network, path, example_inputs, *, format=None",
}
CLASSES = {
    "Evaluation": "examples, accuracy, accuracy_ci95, accuracy_top5, loss, calibration_error, "
    "accuracy_drop, accuracy_drop_ci95",
    "LoadedNetwork": "model, card, masks, preprocess, classes",
    "PrunedLayer": "name, width_before, width, weights_before, weights, weights_nonzero, "
    "kept_because",
    "PrunedNetwork": "model, spec, ratio_achieved, layers, params_before, params, params_nonzero, "
    "macs_before, macs, macs_nonzero, masks, rounds, card",
    "Sensitivity": "dense, rows",
    "Speed": "rows",
}


def arguments(function) -> str:
    """The arguments of a function with their defaults, without types."""
    signature = inspect.signature(function)
    bare = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
    ]
    return str(inspect.Signature(bare)).strip("()")


@pytest.mark.parametrize("name", SIGNATURES)
def test_functions_keep_their_arguments(name):
    assert arguments(getattr(prunelab, name)) == SIGNATURES[name]


@pytest.mark.parametrize("name", CLASSES)
def test_results_keep_their_fields(name):
    assert ", ".join(inspect.signature(getattr(prunelab, name)).parameters) == CLASSES[name]


def test_all_that_is_offered_is_held_by_these_tests():
    offered = set(prunelab.__all__) - {"__version__"}

    assert offered == {*SIGNATURES, *CLASSES, "InputError", "PruneSettings"}
    assert set(prunelab.__all__) <= set(dir(prunelab))


@pytest.mark.parametrize("name", [*SIGNATURES, *CLASSES, "PruneSettings"])
def test_docstrings_name_arguments_and_errors(name):
    offered = getattr(prunelab, name)
    text = inspect.getdoc(offered)

    if name in SIGNATURES:
        assert "Raises:\n    InputError" in text
        for parameter in inspect.signature(offered).parameters:
            assert f"    {parameter}: " in text or f"`{parameter}`" in text
    elif name == "PruneSettings":
        assert all(f"    {key}: " in text for key in PruneSettings.__annotations__)
    else:
        for field in CLASSES[name].split(", "):
            assert f"    {field}: " in text or f"`{field}`" in text


def test_settings_are_those_of_params_yaml_with_its_defaults():
    shipped = read_params(PROJECT / "params.yaml")["prune"]

    assert set(PruneSettings.__annotations__) == set(Prune.model_fields)
    assert {**DEFAULTS, "protect": list(DEFAULTS["protect"])} == shipped


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="prune_all"):
        _ = prunelab.prune_all


IMPORTS = """
import sys
import prunelab
assert not {"torch", "numpy", "pydantic"} & set(sys.modules)
import torch
torch_alone = set(sys.modules)
prunelab.prune
slow = {"torch_pruning", "torchprofile", "torchvision", "sklearn", "scipy", "transformers", "dvc"}
slow |= {"matplotlib", "plotly", "onnx", "onnxruntime", "typer"}
print(sorted(slow & (set(sys.modules) - torch_alone)))
# Rooms that are imported do not hide the functions.
import prunelab.benchmarking.suite, prunelab.pruning.sensitivity, prunelab.commands.export.export
print(callable(prunelab.benchmark), callable(prunelab.sensitivity), callable(prunelab.export))
"""


def test_import_prunelab_imports_nothing_and_its_functions_little_but_torch():
    process = subprocess.run(
        [sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=False
    )

    assert process.returncode == 0, process.stderr
    assert process.stdout.split("\n")[:2] == ["[]", "True True True"]
