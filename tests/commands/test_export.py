"""Exported networks have the scores of the network; a file that has others is not kept."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from helpers.networks import DIGITS_SHAPE, TOKENS
from helpers.params import PROJECT, edit_params, prune_spec
from torch import nn
from typer.testing import CliRunner

from prunelab.artifacts.networks import ModelCard, Network, save_network
from prunelab.benchmarking import checked_export
from prunelab.benchmarking.backends import inputs_of
from prunelab.benchmarking.checked_export import Agreement
from prunelab.benchmarking.export_formats import FORMATS, INPUT, Format, Runner
from prunelab.cli import app
from prunelab.commands.export.comparison import describe
from prunelab.commands.export.export import default_out
from prunelab.commands.export.exported_file import (
    CHECKED_BATCH_SIZES,
    latencies,
    metadata,
    random_inputs,
    with_preprocessing,
    write_checked,
)
from prunelab.config.params import Normalise
from prunelab.core.errors import InputError
from prunelab.core.files import write_json
from prunelab.core.model_files import METADATA_KEY
from prunelab.models.catalogue import input_kind
from prunelab.models.networks import build
from prunelab.pruning.prune import prune

NORMALISE = Normalise(mean=[0.3], std=[0.4])
NAMES = [f"class {index}" for index in range(10)]
DATA = {"dataset": "any", "classes": NAMES, "mean": [0.3], "std": [0.4], "counts": {}, "sha256": {}}

needs_onnx = pytest.mark.skipif(
    not all(map(find_spec, FORMATS["onnx"].packages)), reason="needs the extra [onnx]"
)
FORMS = [pytest.param("onnx", marks=needs_onnx), "pt2"]


def measure_batch_norms(model: nn.Module) -> nn.Module:
    """Give batch norms statistics of noise.

    Those of an untrained network let almost nothing of the inputs through to the scores.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # a plain mean over batches

    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for _ in range(4 if norms else 0):
            model.train()(torch.randn(32, *DIGITS_SHAPE))
    return model.eval()


def network(name: str, method: str = "", ratio: float = 0.5, **options: int) -> Network:
    """A network on digits or tokens, pruned if there is a method."""
    shape = (TOKENS,) if name == "bert" else DIGITS_SHAPE
    card = ModelCard(
        model=name,
        classes=10,
        input_shape=shape,
        normalise=NORMALISE if input_kind(shape) == "images" else None,
        seed=0,
        options=options,
        imported=None,
    )
    model = measure_batch_norms(build(name, 10, shape, **options))
    masks = {}
    if method:
        spec = prune_spec(method, ratio)
        masks = prune(model, name, spec, shape=shape, seed=0).masks
    return Network(model=model.eval(), card=card, masks=masks)


def export_to(
    path: Path, form: str, network: Network, *, preprocessing: bool = False
) -> list[Agreement]:
    model, card = network.model, network.card
    if preprocessing:
        model = with_preprocessing(model, card)
    about = metadata(card, NAMES, preprocessing=preprocessing)
    return write_checked(model, card, form, path, about=about, threads=1)


def scores(form: str, path: Path, inputs: torch.Tensor) -> np.ndarray:
    """The scores of the file, by another program than the one that checked it if there is one."""
    if form == "pt2":
        return torch.export.load(path).module()(inputs).detach().numpy()
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(str(path)).run(None, {INPUT: inputs.numpy()})[0]


def read_metadata(form: str, path: Path) -> dict[str, str]:
    if form == "pt2":
        entries = dict.fromkeys((METADATA_KEY, "classes", "input", "normalise"), "")
        torch.export.load(path, extra_files=entries)
        return entries
    import onnx

    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


# --- the scores of the file ---

TINY_BERT = {
    "vocab": 50,
    "hidden": 16,
    "layers": 1,
    "heads": 2,
    "intermediate": 24,
    "positions": TOKENS,
    "types": 1,
}
NETWORKS = {
    "dense": ("resnet8", "", {}),
    "thin": ("resnet8", "l1_channel", {}),
    "masked": ("resnet8", "l1_unstructured", {}),
    "bert": ("bert", "", TINY_BERT),
    "bert without heads": ("bert", "l1_head", TINY_BERT),
    "thin vgg": ("vgg11_bn", "l1_channel", {}),
    "thin mobilenet": ("mobilenet_v3_small", "l1_channel", {}),
    "thin squeeze-and-excitation": ("resnet26_dse", "l1_channel", {}),
    "thin vit": ("vit_tiny", "l1_channel", {}),
}
FAST = ("dense", "thin", "masked", "bert")


@dataclass(frozen=True)
class Exported:
    """A network, the file that it was exported to, and how well the two agree."""

    original: Network
    path: Path
    agreements: list[Agreement]


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Callable[[str, str], Exported]:
    """Networks of NETWORKS in a format, each alone in a folder: one export takes seconds."""

    @cache
    def export(which: str, form: str) -> Exported:
        name, method, options = NETWORKS[which]
        original = network(name, method, **options)
        path = tmp_path_factory.mktemp("exported") / f"n.{form}"
        return Exported(original, path, export_to(path, form, original))

    return export


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "which",
    [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS],
)
def test_the_file_has_the_scores_of_the_network(which, form, exported):
    if "bert" in which:
        pytest.importorskip("transformers")

    file = exported(which, form)

    original, path, agreements = file.original, file.path, file.agreements
    assert [agreement.batch_size for agreement in agreements] == list(CHECKED_BATCH_SIZES)
    assert all(agreement.relative < 1e-4 and agreement.same_classes for agreement in agreements)
    assert list(path.parent.iterdir()) == [path]

    inputs = random_inputs(original.card, 5)
    with torch.inference_mode():
        expected = original.model(inputs).numpy()
    largest = np.abs(expected).max()
    assert np.ptp(expected, axis=0).max() > 1e-3 * largest  # or nothing would be compared
    np.testing.assert_allclose(scores(form, path, inputs), expected, rtol=0, atol=1e-4 * largest)


@needs_onnx
def test_masked_weights_are_zeros_and_removed_channels_are_absent(exported):
    import onnx

    def weights(which: str) -> list[np.ndarray]:
        tensors = onnx.load(exported(which, "onnx").path).graph.initializer
        arrays = [onnx.numpy_helper.to_array(tensor) for tensor in tensors]
        return [array for array in arrays if array.ndim in (2, 4)]

    dense, masked, thin = map(weights, ("dense", "masked", "thin"))

    count = sum(array.size for array in dense)
    assert sum(np.count_nonzero(array) for array in dense) == count
    assert sum(np.count_nonzero(array) for array in masked) == pytest.approx(count / 2, rel=1e-3)
    assert sum(array.size for array in thin) < 0.6 * count


@pytest.mark.parametrize("form", FORMS)
def test_a_file_with_preprocessing_takes_pixels(form, tmp_path):
    original = network("resnet8")

    export_to(tmp_path / "n", form, original, preprocessing=True)

    pixels = random_inputs(original.card, 3, preprocessing=True)
    assert 0 <= pixels.min() < pixels.max() <= 1
    with torch.inference_mode():
        expected = original.model((pixels - 0.3) / 0.4).numpy()
    np.testing.assert_allclose(scores(form, tmp_path / "n", pixels), expected, rtol=1e-4, atol=1e-5)
    assert not read_metadata(form, tmp_path / "n").get("normalise")


# --- the rest of the file ---


@pytest.mark.parametrize("form", FORMS)
def test_the_metadata_describe_the_network_and_its_input(form, exported):
    file = exported("dense", form)

    entries = read_metadata(form, file.path)
    assert ModelCard.model_validate_json(entries[METADATA_KEY]) == file.original.card
    assert json.loads(entries["classes"]) == NAMES
    assert json.loads(entries["normalise"]) == {"mean": [0.3], "std": [0.4]}
    assert "1, 8, 8" in entries["input"]
    assert "over `std`" in entries["input"]


@pytest.mark.parametrize("form", FORMS)
def test_the_file_is_reproducible_and_holds_no_path_of_this_machine(form, tmp_path, exported):
    export_to(tmp_path / "again", form, network("resnet8"))

    content = exported("dense", form).path.read_bytes()
    assert content == (tmp_path / "again").read_bytes()
    assert str(PROJECT).encode() not in content
    assert b"site-packages" not in content


def test_random_texts_are_tokens_of_the_vocabulary_and_padded():
    card = ModelCard(
        model="bert",
        classes=2,
        input_shape=(6,),
        normalise=None,
        seed=0,
        imported=None,
        options=TINY_BERT | {"pad": 3},
    )

    ids = random_inputs(card, 4)

    assert ids.dtype == torch.int64
    assert 0 <= ids.min() <= ids.max() < 50
    assert (ids[-1, 1:] == 3).all()
    assert "filled up with 3" in metadata(card, None, preprocessing=False)["input"]
    with pytest.raises(InputError, match="nothing to normalise"):
        with_preprocessing(nn.Identity(), card)


# --- the check of the file ---


def off_by(share: float) -> Format:
    """The format pt2 with the scores of its files off by this share."""
    pt2 = FORMATS["pt2"]

    def load(path: Path, threads: int) -> Runner:
        run = pt2.load(path, threads)
        return lambda inputs: run(inputs) * (1 + share)

    return replace(pt2, load=load)


def unreadable() -> Format:
    """The format pt2 with files that cannot be loaded."""
    return replace(FORMATS["pt2"], load=lambda path, threads: 1 / 0)


@pytest.mark.parametrize("spoiled", ["scores", "classes", "nan", "writing"])
def test_a_file_that_does_not_agree_leaves_an_older_one_alone(spoiled, tmp_path, monkeypatch):
    original, path = network("resnet8"), tmp_path / "n.pt2"
    path.write_text("an older file")
    expected_error: type[Exception] = InputError
    match spoiled:
        case "scores":
            monkeypatch.setitem(FORMATS, "pt2", off_by(1e-3))
        case "classes":
            monkeypatch.setattr(checked_export, "TOLERANCE", 10.0)
            monkeypatch.setitem(FORMATS, "pt2", off_by(-2.0))
        case "nan":
            original.model.linear.bias.data[0] = float("nan")
        case "writing":
            monkeypatch.setitem(FORMATS, "pt2", unreadable())
            expected_error = ZeroDivisionError

    with pytest.raises(expected_error):
        export_to(path, "pt2", original)

    assert path.read_text() == "an older file"
    assert list(tmp_path.iterdir()) == [path]


def test_rounding_is_tolerated(tmp_path, monkeypatch):
    monkeypatch.setitem(FORMATS, "pt2", off_by(1e-5))

    agreements = export_to(tmp_path / "n", "pt2", network("resnet8"))

    worst = max(agreement.relative for agreement in agreements)
    assert worst == pytest.approx(1e-5, rel=0.1)


def test_network_and_file_are_timed_on_the_same_inputs(exported, execution):
    file = exported("dense", "pt2")
    inputs = inputs_of(DIGITS_SHAPE, 2, execution)
    torch.set_num_threads(1)  # on a busy machine two threads wait for each other

    seconds = latencies(file.original.model, file.path, "pt2", inputs, execution, rounds=2)

    assert all(len(rounds) == 2 and (rounds > 0).all() for rounds in seconds)


STEADY = np.full((10, 4), 2e-3)


def starved(share: float) -> np.ndarray:
    """Calls of 2 ms of which this share waits 500 ms for a processor, in every round."""
    seconds = np.tile(STEADY, 25)
    seconds[:, : round(share * seconds.shape[1])] = 0.5
    return seconds


def test_a_ratio_of_steady_calls_is_printed_with_its_interval():
    line = describe({"torch": 1.6 * STEADY, "other": STEADY}, 32, [])

    assert line.startswith("latency at batch 32: torch 3.200 ms, other 2.000 ms; ")
    assert line.endswith("faster: 1.60x (1.60 to 1.60)")


@pytest.mark.parametrize(
    ("slow", "busy", "reason"),
    [
        (1.6 * STEADY, ["python 97%"], "the machine was busy with python 97%"),
        (starved(0.6), [], "the median call of torch took 250.0 times as long as its fastest"),
        (STEADY * np.linspace(1, 2.9, 10)[:, None], [], "more rounds may narrow"),
    ],
    ids=["busy", "starved", "uncertain"],
)
def test_a_ratio_that_the_run_does_not_support_is_not_printed(slow, busy, reason):
    for seconds in ({"torch": slow, "other": STEADY}, {"other": STEADY, "torch": slow}):
        line = describe(seconds, 1, busy)

        assert "no ratio, because " in line
        assert reason in line
        assert "x (" not in line
        assert "no difference" not in line


def test_few_slow_calls_do_not_matter():
    line = describe({"torch": starved(0.1), "other": STEADY}, 1, [])

    assert line.endswith("; faster: no difference")


# --- the command ---


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((PROJECT / "params.yaml").read_text())
    edit_params(tmp_path / "params.yaml", seeds=[4, 0], runtime__threads=1)
    save_network(tmp_path / "models/focus/finetuned/4.safetensors", network("resnet8"))
    return tmp_path


def export_command(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["export", *arguments])


def test_the_focus_of_the_first_seed_is_exported_by_default(workspace):
    write_json(Path("data/prepared/dataset.json"), DATA | {"shape": [1, 8, 8]})

    result = export_command("pt2", "--rounds", "2")

    assert result.exit_code == 0, result.stderr
    file = workspace / "exports/focus-finetuned-4.pt2"
    assert json.loads(read_metadata("pt2", file)["classes"]) == NAMES
    assert "latency at batch 1: eager torch" in result.stdout
    assert f"{file.stat().st_size / 1000:,.0f} kB" in result.stdout
    focus_files = [path.name for path in (workspace / "models/focus/finetuned").iterdir()]
    assert focus_files == ["4.safetensors"]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("/0.safetensors", "0"),
        ("/a/0.safetensors", "a-0"),
        ("a/b/c/0.safetensors", "b-c-0"),
        ("0.safetensors", "0"),
    ],
)
def test_the_default_file_is_in_exports_wherever_the_network_is(source, name):
    assert default_out(Path(source), "pt2") == Path("exports", f"{name}.pt2")


def test_class_names_of_other_data_are_left_out(workspace):
    write_json(Path("data/prepared/dataset.json"), DATA | {"shape": [3, 32, 32]})

    result = export_command("pt2", "--rounds", "0", "--out", "n.pt2")

    assert result.exit_code == 0
    assert not read_metadata("pt2", workspace / "n.pt2")["classes"]


def files_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["onxx"], ["unknown format 'onxx'", "did you mean 'onnx'", "onnx, pt2"]),
        (["pt2", "models/none.safetensors"], ["models/none.safetensors is missing"]),
        (["pt2", "params.yaml"], ["params.yaml is damaged"]),
        (["pt2", "--out", "models"], ["--out: models is a folder"]),
        (["pt2", "--out", "models/focus/finetuned/4.safetensors"], ["is the network itself"]),
        (["pt2", "--out", "params.yaml/n.pt2"], ["params.yaml"]),
        (["pt2", "--rounds", "1"], ["--rounds: 1"]),
    ],
)
def test_each_mistake_is_reported_in_one_line(workspace, arguments, parts):
    before = files_in(workspace)

    result = export_command(*arguments)

    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert all(part in line for part in parts)
    assert files_in(workspace) == before


@pytest.mark.usefixtures("workspace")
def test_a_missing_extra_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr("prunelab.benchmarking.export_formats.find_spec", lambda name: None)

    result = export_command("onnx")

    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "pip install onnx onnxruntime onnxscript" in line
