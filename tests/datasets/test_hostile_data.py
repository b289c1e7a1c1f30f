"""Damaged or malicious images and tables, and examples that several splits share."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from helpers.damage import DAMAGES, Damage, outcome
from helpers.data import write_image_folder
from helpers.params import PROJECT, edit_params
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prunelab.artifacts.prepared import load_split
from prunelab.core.errors import InputError
from prunelab.core.files import read_json
from prunelab.data.dataset import DataConfig
from prunelab.data.splits import Split
from prunelab.datasets import manifest
from prunelab.datasets.datasets import DATASETS
from prunelab.datasets.image_files import ImageFiles
from prunelab.datasets.imagefolder import ImageFolder
from prunelab.datasets.images import decode, size_of
from prunelab.datasets.table_file import read_table
from prunelab.stages import prepare

ENDINGS = ("png", "jpg", "gif", "webp", "tif", "bmp", "ppm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with one image of each format."""
    folder = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    for ending in ENDINGS:
        Image.fromarray(pixels).save(folder / f"whole.{ending}")
    return folder


def decoded(path: Path) -> np.ndarray:
    """The image of a file, as the stage prepare reads it."""
    paths, labels = np.array([str(path)], dtype=object), np.zeros(1, np.int64)
    (chunk,) = ImageFiles(paths, labels, shape=(3, 8, 8), resize=8).chunks()
    return chunk[0]


@given(st.sampled_from(ENDINGS), DAMAGES)
def test_a_damaged_image_is_decoded_or_an_error(folder, ending: str, damage: Damage):
    path = folder / f"damaged.{ending}"
    path.write_bytes(damage((folder / f"whole.{ending}").read_bytes()))

    image, size = outcome(decoded, path), size_of(str(path))

    assert image is None or (image.shape == (3, 8, 8) and image.dtype == np.uint8)
    assert size is None or min(size) > 0


def test_the_format_depends_on_the_content_and_not_on_the_name(folder, tmp_path):
    jpeg, renamed = folder / "whole.jpg", tmp_path / "x.png"
    renamed.write_bytes(jpeg.read_bytes())

    np.testing.assert_array_equal(decode(str(renamed), None), decode(str(jpeg), None))


def test_a_format_whose_reader_starts_a_program_is_an_error(tmp_path, monkeypatch):
    Image.new("RGB", (9, 9)).save(tmp_path / "x.eps")
    (tmp_path / "x.eps").rename(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        assert image.format == "EPS", "Pillow by itself would take it"
    monkeypatch.setattr(
        "subprocess.check_call", lambda *_, **__: pytest.fail("a program was started")
    )

    with pytest.raises(InputError, match=r"x.png \(UnidentifiedImageError"):
        decoded(tmp_path / "x.png")


def test_pipes_and_devices_are_an_error_and_not_read(tmp_path):
    write_image_folder(tmp_path, {"cat": 3, "dog": 3})
    os.mkfifo(tmp_path / "cat/pipe.png")
    (tmp_path / "dog/endless.png").symlink_to("/dev/zero")
    (tmp_path / "dog/nowhere.png").symlink_to(tmp_path / "absent")
    dataset = ImageFolder(DataConfig(Path("unused"), path=str(tmp_path), resize=6))

    with pytest.raises(InputError, match="3 of 9 images cannot be decoded") as error:
        list(dataset.read().train.chunks())

    (line,) = error.value.problems
    assert "cat/pipe.png (ValueError: not a regular file" in line
    assert "dog/endless.png (ValueError" in line
    assert "dog/nowhere.png (FileNot" in line
    assert size_of(str(tmp_path / "cat/pipe.png")) is None


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "tif"])
def test_an_animated_image_is_decoded_to_its_first_frame(tmp_path, ending):
    path = tmp_path / f"x.{ending}"
    first, *others = (Image.new("RGB", (9, 9), (value, value, value)) for value in (10, 200, 90))
    options = {"lossless": True} if ending == "webp" else {}
    first.save(path, save_all=True, append_images=others, **options)
    with Image.open(path) as image:
        assert image.n_frames == 3

    assert (decode(str(path), None) == 10).all()


def test_orientation_tags_are_ignored_as_in_torchvision(tmp_path):
    from torchvision.datasets.folder import pil_loader

    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    tags = Image.Exif()
    tags[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=tags)

    np.testing.assert_array_equal(decode(str(tmp_path / "x.png"), None), pixels.transpose(2, 0, 1))
    np.testing.assert_array_equal(np.asarray(pil_loader(tmp_path / "x.png")), pixels)


CELLS = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ['"', '""', "\n", "\r", "\t", ",", "\0", "é"]
)
LINES = st.lists(st.lists(CELLS, min_size=1, max_size=4), max_size=5)


@pytest.mark.parametrize(("ending", "separator"), [("tsv", "\t"), ("csv", ",")])
@given(lines=LINES, damage=st.none() | DAMAGES)
def test_a_random_table_is_read_row_by_row_or_an_error(
    folder, ending, separator, lines, damage: Damage | None
):
    path = folder / f"t.{ending}"
    rows = [["label", "text"], ["a", "one"], ["b", "two words"], *lines]
    content = "\n".join(separator.join(row) for row in rows).encode()
    if damage:
        content = damage(content)
    path.write_bytes(content)

    table = outcome(lambda: read_table(path, text_column="text", label_column="label"))

    if table:
        assert len(table.texts) == len(table.labels) > 0
        for field in table.texts + table.labels:
            assert field
            assert field == field.strip()
            assert "\0" not in field


@pytest.mark.parametrize(
    ("ending", "content", "named"),
    [
        (
            "tsv",
            "label\ttext\nx\tone\n".encode("utf-16-le"),
            "line 1: byte 0x00 at 1 is not text. Is the file",
        ),
        ("tsv", "label\ttext\nx\tone\n".encode("utf-16"), "line 1: byte 0x00 at 3 is not text"),
        ("csv", b"label,text\nx,one\ny,t\0o\n", "line 3: byte 0x00 at 20"),
        ("csv", b'label,text\nx,"one\ny,two\n', "line 3: unexpected end of data"),
        ("csv", b'label,text\nx,"one"two\n', "line 2: ',' expected after '\"'"),
    ],
)
def test_wrong_encodings_and_open_quotes_are_an_error_by_line(tmp_path, ending, content, named):
    path = tmp_path / f"t.{ending}"
    path.write_bytes(content)

    with pytest.raises(InputError) as error:
        read_table(path, text_column="text", label_column="label")

    assert named in error.value.problems[0]


def test_a_text_may_be_as_long_as_a_book(tmp_path):
    path, book = tmp_path / "t.csv", "word " * 200_000
    path.write_text(f'label,text\nx,"{book}"\n')

    table = read_table(path, text_column="text", label_column="label")

    assert table.texts == [book.strip()]


def test_a_table_with_one_row_is_an_error(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text("label\ttext\nx\tone\n")

    (line,) = DATASETS["text_tsv"](DataConfig(tmp_path, path=str(path))).damaged()

    assert "has the same label" in line


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Path:
    """A folder with the shipped parameters."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((PROJECT / "params.yaml").read_text())
    return tmp_path


def duplicate_counts() -> dict[str, int]:
    """The duplicates in dataset.json, after comparing all examples with all others."""
    prepare.main(Path("data/raw"), Path("data/prepared"))
    counts = read_json(Path("data/prepared/dataset.json"))["duplicates"]

    assert len(counts) == 3
    for pair, count in counts.items():
        first, second = (
            load_split(Path("data/prepared"), name).inputs for name in pair.split(", ")
        )
        shared = [row for row in second if any(np.array_equal(row, known) for known in first)]
        assert count == len(shared)
    return counts


def write_pets(classes: dict[str, int], *splits: str) -> Path:
    """Splits of different random images in the folder `pets`, which params.yaml then names."""
    for seed, name in enumerate(splits):
        write_image_folder(Path("pets", name), classes, sizes=[(9 + seed, 7)])
    edit_params(Path("params.yaml"), dataset="imagefolder", data__source="pets", data__resize=16)
    return Path("pets")


def test_images_that_two_splits_share_are_counted_and_named(workspace, capsys):
    pets = write_pets({"cat": 4, "dog": 4}, "train", "val", "test")
    original = (pets / "train/cat/000.png").read_bytes()
    for copy in ("test/cat/900.png", "test/dog/901.png", "val/cat/902.png"):
        (pets / copy).write_bytes(original)
    edit_params(Path("params.yaml"), data__conflicts="keep")

    counts = duplicate_counts()

    assert counts == {"train, validation": 1, "train, test": 2, "validation, test": 2}
    output = capsys.readouterr().out
    shared_with_test = "pets/test/cat/900.png (as pets/train/cat/000.png)"
    assert f"2 of 10 examples of test are in train too: {shared_with_test}" in output
    assert "1 of 9 examples of validation are in train too: pets/val/cat/902.png" in output


def test_names_of_duplicates_cannot_control_the_terminal(workspace, capsys):
    pets = write_pets({"cat": 8, "dog": 8}, "train", "val")
    copy = Path(os.fsdecode(b"pets/val/cat/\xff\x1b[31m\n.png"))
    copy.write_bytes((pets / "train/cat/000.png").read_bytes())

    duplicate_counts()

    lines = capsys.readouterr().out.splitlines()
    assert any(r"\udcff\x1b[31m\n.png" in line for line in lines)
    assert all(line.isprintable() for line in lines)


def test_texts_that_two_splits_share_are_counted(workspace, capsys):
    shared = ["bad\ta dull film", "good\ta fine film"]
    for split, word in (("train", "one"), ("validation", "two"), ("test", "three")):
        lines = ["label\ttext", *shared, f"bad\tnumber {word}"]
        Path(f"{split}.tsv").write_text("\n".join(lines) + "\n")
    edit_params(Path("params.yaml"), dataset="text_tsv", model="bert", data__source=str(workspace))

    counts = duplicate_counts()

    assert counts == {"train, validation": 2, "train, test": 2, "validation, test": 2}
    output = capsys.readouterr().out
    assert "2 of 3 examples of test are in train too: example 0 (as example 0)" in output


def test_different_examples_with_equal_hashes_are_not_duplicates(monkeypatch):
    monkeypatch.setattr(manifest, "_hashes", lambda split: np.zeros(len(split), np.uint64))
    images, labels = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1), np.zeros(2, np.int64)
    splits = {"train": Split(images[:2], labels), "test": Split(images[2:], labels)}

    hashes = manifest.hash_inputs(splits)

    assert manifest.find_duplicates(splits, hashes) == {("train", "test"): []}


def test_prepare_prints_nothing_about_splits_without_duplicates(workspace, capsys):
    edit_params(Path("params.yaml"), dataset="digits")

    prepare.main(Path("data/raw"), Path("data/prepared"))

    counts = json.loads(Path("data/prepared/dataset.json").read_text())["duplicates"]
    assert counts == {"train, validation": 0, "train, test": 0, "validation, test": 0}
    assert "too" not in capsys.readouterr().out
