"""Networks in other formats say what the network says, and what is wrong leaves nothing behind."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.networks import DIGITS_SHAPE, TOKENS
from helpers.params import PROJECT, edit_params, prune_spec
from torch import nn
from typer.testing import CliRunner

from prunelab.artifacts.networks import ModelCard, Network, save_network
from prunelab.artifacts.tensors import METADATA_KEY
from prunelab.benchmark.backends import inputs_of
from prunelab.benchmark.export_formats import FORMATS, INPUT, Format, Runner
from prunelab.cli import app
from prunelab.commands.export import export as exporting
from prunelab.commands.export.command import own_name
from prunelab.commands.export.export import (
    export,
    latencies,
    metadata,
    random_inputs,
    with_preprocessing,
)
from prunelab.config.params import Normalise
from prunelab.core.errors import InputError
from prunelab.core.files import write_json
from prunelab.models.catalogue import build, reads
from prunelab.pruning.prune import prune

NORMALISE = Normalise(mean=[0.3], std=[0.4])
NAMES = [f"class {index}" for index in range(10)]
DATA = {"dataset": "any", "classes": NAMES, "mean": [0.3], "std": [0.4], "counts": {}, "sha256": {}}


def lively(model: nn.Module) -> nn.Module:
    """With norms that measured noise: those of a fresh network let nothing of its inputs through to the scores."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # a plain mean over batches
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for _ in range(4 if norms else 0):
            model.train()(torch.randn(32, *DIGITS_SHAPE))
    return model.eval()


def network(
    name: str, trainer=None, method: str = "", ratio: float = 0.5, **options: int
) -> Network:
    shape = (TOKENS,) if name == "bert" else DIGITS_SHAPE
    card = ModelCard(
        model=name, classes=10, input_shape=shape, normalise=NORMALISE if reads(shape) == "images" else None, seed=0,
        options=options, imported=None,
    )  # fmt: skip
    model, masks = lively(build(name, 10, shape, **options)), {}
    if method:
        masks = prune(
            model, name, prune_spec(method, ratio), shape=shape, seed=0, trainer=trainer
        ).masks
    return Network(model=model.eval(), card=card, masks=masks)


has_onnx = pytest.mark.skipif(
    not all(map(find_spec, FORMATS["onnx"].packages)), reason="needs the extra [onnx]"
)
FORMS = [pytest.param("onnx", marks=has_onnx), "pt2"]
TINY_BERT = {
    "vocab": 50,
    "hidden": 16,
    "layers": 1,
    "heads": 2,
    "intermediate": 24,
    "positions": TOKENS,
    "types": 1,
}


def exported(
    form: str, made: Network, out: Path, *, preprocessing: bool = False
) -> list[exporting.Agreement]:
    model = with_preprocessing(made.model, made.card) if preprocessing else made.model
    about = metadata(made.card, NAMES, preprocessing=preprocessing)
    return export(model, made.card, form, out, about=about, threads=1)


def scores(form: str, path: Path, inputs: torch.Tensor) -> np.ndarray:
    """What the file says, by another program than the one that checked it where there is one."""
    if form == "pt2":
        return torch.export.load(path).module()(inputs).detach().numpy()
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(str(path)).run(None, {INPUT: inputs.numpy()})[0]


def about_of(form: str, path: Path) -> dict[str, str]:
    if form == "pt2":
        told = dict.fromkeys((METADATA_KEY, "classes", "input", "normalise"), "")
        torch.export.load(path, extra_files=told)
        return told
    import onnx

    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


SLOW = pytest.mark.slow
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


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "which",
    [name if place < 4 else pytest.param(name, marks=SLOW) for place, name in enumerate(NETWORKS)],
)
def test_the_file_says_what_the_network_says_whatever_the_batch(which, form, tmp_path, trainer):
    name, method, options = NETWORKS[which]
    if name == "bert":
        pytest.importorskip("transformers")
    made, path = network(name, trainer, method, **options), tmp_path / f"n.{form}"
    agreements = exported(form, made, path)
    assert [found.batch_size for found in agreements] == list(exporting.BATCH_SIZES)
    assert all(found.relative < 1e-4 and found.same_classes for found in agreements)
    assert list(tmp_path.iterdir()) == [path]
    inputs = random_inputs(made.card, 5)
    with torch.inference_mode():
        expected = made.model(inputs).numpy()
    assert np.ptp(expected, axis=0).max() > 1e-3 * np.abs(expected).max()  # or nothing was compared
    np.testing.assert_allclose(
        scores(form, path, inputs), expected, rtol=0, atol=1e-4 * np.abs(expected).max()
    )


@has_onnx
def test_masked_weights_are_zeros_in_the_file_and_thin_layers_are_thin(tmp_path, trainer):
    import onnx

    def weights(which: str) -> list[np.ndarray]:
        name, method, options = NETWORKS[which]
        exported("onnx", network(name, trainer, method, **options), tmp_path / which)
        held = [
            onnx.numpy_helper.to_array(tensor)
            for tensor in onnx.load(tmp_path / which).graph.initializer
        ]
        return [array for array in held if array.ndim in (2, 4)]

    dense, masked, thin = map(weights, ("dense", "masked", "thin"))
    held = sum(array.size for array in dense)
    assert sum(np.count_nonzero(array) for array in dense) == held
    assert sum(np.count_nonzero(array) for array in masked) == pytest.approx(held / 2, rel=1e-3)
    assert sum(array.size for array in thin) < 0.6 * held


@pytest.mark.parametrize("form", FORMS)
def test_a_file_tells_what_it_is_and_what_it_takes(form, tmp_path):
    made = network("resnet8")
    exported(form, made, tmp_path / "n")
    told = about_of(form, tmp_path / "n")
    assert ModelCard.model_validate_json(told[METADATA_KEY]) == made.card
    assert json.loads(told["classes"]) == NAMES
    assert json.loads(told["normalise"]) == {"mean": [0.3], "std": [0.4]}
    assert "1, 8, 8" in told["input"]
    assert "over `std`" in told["input"]


@pytest.mark.parametrize("form", FORMS)
def test_with_preprocessing_it_takes_pixels(form, tmp_path):
    made = network("resnet8")
    exported(form, made, tmp_path / "n", preprocessing=True)
    pixels = random_inputs(made.card, 3, preprocessing=True)
    assert 0 <= pixels.min() < pixels.max() <= 1
    with torch.inference_mode():
        expected = made.model((pixels - 0.3) / 0.4).numpy()
    np.testing.assert_allclose(scores(form, tmp_path / "n", pixels), expected, rtol=1e-4, atol=1e-5)
    assert not about_of(form, tmp_path / "n").get("normalise")


@pytest.mark.parametrize("form", FORMS)
def test_the_same_network_gives_the_same_bytes_and_no_path_of_this_machine(form, tmp_path):
    for name in "ab":
        exported(form, network("resnet8"), tmp_path / name)
    content = (tmp_path / "a").read_bytes()
    assert content == (tmp_path / "b").read_bytes()
    assert str(PROJECT).encode() not in content
    assert b"site-packages" not in content


def off_by(share: float) -> Format:
    """The format pt2, were its files' scores off by this share."""
    honest = FORMATS["pt2"]

    def load(path: Path, threads: int) -> Runner:
        run = honest.load(path, threads)
        return lambda inputs: run(inputs) * (1 + share)

    return replace(honest, load=load)


@pytest.mark.parametrize("spoiled", ["scores", "classes", "nan", "writing"])
def test_what_does_not_agree_is_refused_and_what_was_there_stays(spoiled, tmp_path, monkeypatch):
    made, path = network("resnet8"), tmp_path / "n.pt2"
    path.write_text("what was there")
    match spoiled:
        case "scores":
            monkeypatch.setitem(FORMATS, "pt2", off_by(1e-3))
        case "classes":
            monkeypatch.setattr(exporting, "TOLERANCE", 10.0)
            monkeypatch.setitem(FORMATS, "pt2", off_by(-2.0))
        case "nan":
            made.model.linear.bias.data[0] = float("nan")
        case "writing":
            monkeypatch.setitem(
                FORMATS, "pt2", replace(FORMATS["pt2"], load=lambda path, threads: 1 / 0)
            )
    with pytest.raises(ZeroDivisionError if spoiled == "writing" else InputError):
        exported("pt2", made, path)
    assert path.read_text() == "what was there"
    assert list(tmp_path.iterdir()) == [path]


def test_a_little_rounding_is_no_disagreement(tmp_path, monkeypatch):
    monkeypatch.setitem(FORMATS, "pt2", off_by(1e-5))
    worst = max(found.relative for found in exported("pt2", network("resnet8"), tmp_path / "n"))
    assert worst == pytest.approx(1e-5, rel=0.1)


def test_texts_are_tokens_of_the_vocabulary_some_of_them_short():
    card = ModelCard(
        model="bert", classes=2, input_shape=(6,), normalise=None, seed=0, imported=None, options=TINY_BERT | {"pad": 3}
    )  # fmt: skip
    ids = random_inputs(card, 4)
    assert ids.dtype == torch.int64
    assert 0 <= ids.min() <= ids.max() < 50
    assert (ids[-1, 1:] == 3).all()
    assert "filled up with 3" in metadata(card, None, preprocessing=False)["input"]
    with pytest.raises(InputError, match="nothing to normalise"):
        with_preprocessing(nn.Identity(), card)


def test_both_take_turns_on_the_same_inputs(tmp_path, execution):
    made = network("resnet8")
    exported("pt2", made, tmp_path / "n")
    inputs = inputs_of(DIGITS_SHAPE, 2, execution)
    torch.set_num_threads(1)  # on a busy machine two wait for each other
    seconds = latencies(made.model, tmp_path / "n", "pt2", inputs, execution, rounds=2)
    assert all(len(arm) == 2 and (arm > 0).all() for arm in seconds)


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((PROJECT / "params.yaml").read_text())
    edit_params(tmp_path / "params.yaml", seeds=[4, 0], runtime__threads=1)
    save_network(tmp_path / "models/focus/finetuned/4.safetensors", network("resnet8"))
    return tmp_path


def command(*arguments: str):
    return CliRunner().invoke(app, ["export", *arguments])


def test_the_command_takes_the_focus_of_the_first_seed_and_leaves_its_folder_alone(workspace):
    write_json(Path("data/prepared/dataset.json"), DATA | {"shape": [1, 8, 8]})
    result = command("pt2", "--rounds", "2")
    assert result.exit_code == 0, result.stderr
    written = workspace / "exports/focus-finetuned-4.pt2"
    assert json.loads(about_of("pt2", written)["classes"]) == NAMES
    assert "latency at batch 1: eager torch" in result.stdout
    assert f"{written.stat().st_size / 1000:,.0f} kB" in result.stdout
    assert [path.name for path in (workspace / "models/focus/finetuned").iterdir()] == [
        "4.safetensors"
    ]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("/0.safetensors", "0"),
        ("/a/0.safetensors", "a-0"),
        ("a/b/c/0.safetensors", "b-c-0"),
        ("0.safetensors", "0"),
    ],
)
def test_the_files_own_name_lies_in_its_folder_wherever_the_network_comes_from(source, name):
    assert own_name(Path(source), "pt2") == Path("exports", f"{name}.pt2")


def test_names_of_other_classes_are_not_taken(workspace):
    write_json(Path("data/prepared/dataset.json"), DATA | {"shape": [3, 32, 32]})
    assert command("pt2", "--rounds", "0", "--out", "n.pt2").exit_code == 0
    assert not about_of("pt2", workspace / "n.pt2")["classes"]


@pytest.mark.parametrize(
    ("arguments", "named"),
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
def test_each_mistake_is_one_line(workspace, arguments, named):
    before = {path: path.read_bytes() for path in workspace.rglob("*") if path.is_file()}
    result = command(*arguments)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert all(part in line for part in named)
    assert {path: path.read_bytes() for path in workspace.rglob("*") if path.is_file()} == before


def test_a_missing_extra_is_named_with_the_command_that_installs_it(workspace, monkeypatch):
    monkeypatch.setattr("prunelab.benchmark.export_formats.find_spec", lambda name: None)
    result = command("onnx")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "pip install prunelab[onnx]" in line
