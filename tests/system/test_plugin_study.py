"""The example of plugins/ in a study of its own: stages as processes and in forks."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.params import PROJECT, edit_params
from helpers.stages import TRAIN, files, loaded_stages, stage

from prunelab.artifacts.networks import load_network
from prunelab.core import plugins
from prunelab.core.files import read_json
from prunelab.warm.address import ADDRESS_VARIABLE, OFF

FROM_SOURCE = {"PYTHONPATH": str(PROJECT / "src")}
BY_ITSELF = {ADDRESS_VARIABLE: OFF}
PRUNE = ("prune", "models/base", "data/prepared", "models/pruned")
METHOD = ("--method", "centred_l1_channel", "--ratio", "0.5")
EVALUATE = ("evaluate", "data/prepared", "models/base/final", "metrics.json", "base.safetensors")
NETWORK, RULE = "plugins/example_network.py", "plugins/example_method.py"


def run(*command: str, variables: dict[str, str]) -> str:
    process = stage(*command, **FROM_SOURCE, **variables)
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> Iterator[dict[str, str]]:
    with loaded_stages(tmp_path_factory.mktemp("logs")) as variables:
        yield variables


@pytest.fixture(scope="module")
def trained(tmp_path_factory, loaded) -> Path:
    """A small study of the example's data, network and method, trained in forks."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(PROJECT / "plugins", folder / "plugins")
    shutil.copy(PROJECT / "params.yaml", folder)
    edit_params(
        folder / "params.yaml",
        dataset="stripes",
        model="plain_cnn",
        method="centred_l1_channel",
        grid__methods=["centred_l1_unstructured"],
        grid__ratios=[0.5],
        seeds=[0, 1],
        train__epochs=2,
        train__schedule="two_cosines",
        data__augment=["contrast"],
        evaluate__metrics=["worst_recall", "matthews"],
        train__rewind_epoch=0,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run("prepare", "data/raw", "data/prepared", variables=loaded)
        run(*TRAIN, variables=loaded)
    return folder


@pytest.fixture
def study(project, trained) -> Path:
    """A copy of that study, in the working directory."""
    shutil.copytree(trained, project, dirs_exist_ok=True)
    return project


def edit(name: str, old: str, new: str) -> None:
    file = Path(name)
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.slow  # it runs five stages, most of them by themselves
def test_a_study_of_plugins_runs_in_forks_to_the_same_bits(study, loaded):
    described = run(*PRUNE, *METHOD, variables=loaded)
    in_forks = files(study / "models")
    shutil.rmtree(study / "models")

    run(*TRAIN, variables=BY_ITSELF)
    run(*PRUNE, *METHOD, variables=BY_ITSELF)
    run(*EVALUATE, variables=BY_ITSELF)

    assert files(study / "models") == in_forks
    assert described.count("ratio 0.5000 achieved") == 2
    # A guess at one of four directions is right once in four.
    metrics = read_json(study / "metrics.json")
    assert metrics["accuracy"] > 0.6
    assert 0 <= metrics["worst_recall"] <= metrics["accuracy"]
    assert {"worst_recall_ci95", "matthews", "matthews_ci95"} <= metrics.keys()


def test_stages_in_forks_run_the_plugins_of_the_working_tree(study, loaded):
    before = load_network(study / "models/base/final/0.safetensors")

    edit(NETWORK, "width: int = 16", "width: int = 12")
    run(*TRAIN, variables=loaded)
    plugins.forget()
    after = load_network(study / "models/base/final/0.safetensors")

    widths = [network.model.features[0].out_channels for network in (before, after)]
    assert widths == [16, 12]
    assert before.card.plugins != after.card.plugins


FAULTS = {
    "it raises": (
        "    layers: list[nn.Module] = []",
        "    raise ValueError('not yet')",
        f"{NETWORK}:12: ValueError: not yet; correct it, or move the file out of plugins/",
    ),
    "its head has no weights of its own": (
        "nn.Linear(channels, classes)",
        "nn.Sequential(nn.Linear(channels, classes), nn.ReLU(), nn.Linear(classes, 9))",
        f"{NETWORK}:27: network plain_cnn has a head 'head' without one row of weights",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_stage_refuses_a_broken_network_in_one_line_and_writes_nothing(study, loaded, fault):
    old, new, expected = FAULTS[fault]
    shutil.rmtree(study / "models")
    edit(NETWORK, old, new)

    process = stage(*TRAIN, **FROM_SOURCE, **loaded)

    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    assert expected in process.stderr.splitlines()[0]
    assert not (study / "models").exists()


def test_an_error_in_the_process_of_a_seed_is_traced_to_the_plugin(study, loaded):
    # The small network by which a criterion is tried has no layer of this name.
    edit(
        RULE,
        "        filters = weight",
        "        if name.startswith('features'):\n            raise KeyError(name)\n"
        "        filters = weight",
    )

    process = stage(*PRUNE, *METHOD, **FROM_SOURCE, **loaded)

    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    assert "KeyError: 'features.0.weight'; correct it, or move the file" in process.stderr
    assert not (study / "models/pruned").exists()
