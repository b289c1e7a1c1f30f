"""Images and texts that are damaged or made to harm, and examples that several splits share."""

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
from prunelab.datasets import manifest as describe
from prunelab.datasets.datasets import DATASETS
from prunelab.datasets.imagefolder import ImageFiles, ImageFolder
from prunelab.datasets.images import decode, size_of
from prunelab.datasets.table_file import read_table
from prunelab.stages import prepare

ENDINGS = ("png", "jpg", "gif", "webp", "tif", "bmp", "ppm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with one image of each format."""
    made = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    for ending in ENDINGS:
        Image.fromarray(pixels).save(made / f"whole.{ending}")
    return made


def decoded(path: Path) -> np.ndarray:
    """The image of a file, as preparing data reads it."""
    (chunk,) = ImageFiles(
        np.array([str(path)], dtype=object), np.zeros(1, np.int64), (3, 8, 8), 8
    ).chunks()
    return chunk[0]


@given(st.sampled_from(ENDINGS), DAMAGES)
def test_a_damaged_image_is_refused_by_name_or_decoded(folder, ending: str, damage: Damage):
    path = folder / f"damaged.{ending}"
    path.write_bytes(damage((folder / f"whole.{ending}").read_bytes()))
    image = outcome(decoded, path)
    assert image is None or (image.shape == (3, 8, 8) and image.dtype == np.uint8)
    assert size_of(str(path)) is None or min(size_of(str(path)) or ()) > 0


def test_the_content_counts_and_not_the_ending(folder, tmp_path):
    (tmp_path / "x.png").write_bytes((folder / "whole.jpg").read_bytes())
    np.testing.assert_array_equal(
        decode(str(tmp_path / "x.png"), None), decode(str(folder / "whole.jpg"), None)
    )


def test_a_format_whose_reader_starts_a_program_is_refused_whatever_it_is_called(
    tmp_path, monkeypatch
):
    Image.new("RGB", (9, 9)).save(tmp_path / "x.eps")
    (tmp_path / "x.eps").rename(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        assert image.format == "EPS", "Pillow by itself would take it"
    monkeypatch.setattr(
        "subprocess.check_call", lambda *_, **__: pytest.fail("a program was started")
    )
    with pytest.raises(InputError, match=r"x.png \(UnidentifiedImageError"):
        decoded(tmp_path / "x.png")


def test_what_is_no_file_is_refused_by_name_and_not_waited_for(tmp_path):
    write_image_folder(tmp_path, {"cat": 3, "dog": 3})
    os.mkfifo(tmp_path / "cat/pipe.png")
    (tmp_path / "dog/endless.png").symlink_to("/dev/zero")
    (tmp_path / "dog/nowhere.png").symlink_to(tmp_path / "absent")
    assert size_of(str(tmp_path / "cat/pipe.png")) is None
    with pytest.raises(InputError, match="3 of 9 images cannot be decoded") as refused:
        list(
            ImageFolder(DataConfig(Path("unused"), path=str(tmp_path), resize=6))
            .read()
            .train.chunks()
        )
    for name in (
        "cat/pipe.png (ValueError: not a regular file",
        "dog/endless.png (ValueError",
        "dog/nowhere.png (FileNot",
    ):
        assert name in refused.value.problems[0]


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "tif"])
def test_of_an_animated_image_the_first_frame_counts(tmp_path, ending):
    frames = [Image.new("RGB", (9, 9), (value, value, value)) for value in (10, 200, 90)]
    kept = {"lossless": True} if ending == "webp" else {}
    frames[0].save(tmp_path / f"x.{ending}", save_all=True, append_images=frames[1:], **kept)
    with Image.open(tmp_path / f"x.{ending}") as image:
        assert image.n_frames == 3
    assert (decode(str(tmp_path / f"x.{ending}"), None) == 10).all()


def test_orientation_tags_are_not_followed_as_in_torchvision(tmp_path):
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
def test_any_table_is_refused_or_read_row_by_row(
    folder, ending, separator, lines, damage: Damage | None
):
    path = folder / f"t.{ending}"
    rows = [["label", "text"], ["a", "one"], ["b", "two words"], *lines]
    content = "\n".join(separator.join(row) for row in rows).encode()
    path.write_bytes(damage(content) if damage else content)
    table = outcome(lambda: read_table(path, text_column="text", label_column="label"))
    if table:
        assert len(table.texts) == len(table.labels) > 0
        assert all(
            said and said == said.strip() and "\0" not in said
            for said in table.texts + table.labels
        )


@pytest.mark.parametrize(
    ("ending", "content", "named"),
    [
        ("tsv", "label\ttext\nx\tone\n".encode("utf-16-le"), "line 1: byte 0x00 at 1 is not text. Is the file"),
        ("tsv", "label\ttext\nx\tone\n".encode("utf-16"), "line 1: byte 0x00 at 3 is not text"),
        ("csv", b"label,text\nx,one\ny,t\0o\n", "line 3: byte 0x00 at 20"),
        ("csv", b'label,text\nx,"one\ny,two\n', "line 3: unexpected end of data"),
        ("csv", b'label,text\nx,"one"two\n', "line 2: ',' expected after '\"'"),
    ],
)  # fmt: skip
def test_tables_in_other_encodings_and_with_open_quotes_are_refused_by_line(
    tmp_path, ending, content, named
):
    (tmp_path / f"t.{ending}").write_bytes(content)
    with pytest.raises(InputError) as refused:
        read_table(tmp_path / f"t.{ending}", text_column="text", label_column="label")
    assert named in refused.value.problems[0]


def test_a_text_may_be_as_long_as_a_book(tmp_path):
    book = "word " * 200_000
    (tmp_path / "t.csv").write_text(f'label,text\nx,"{book}"\n')
    assert read_table(tmp_path / "t.csv", text_column="text", label_column="label").texts == [
        book.strip()
    ]


def test_one_row_is_no_data_set(tmp_path):
    (tmp_path / "t.tsv").write_text("label\ttext\nx\tone\n")
    (line,) = DATASETS["text_tsv"](DataConfig(tmp_path, str(tmp_path / "t.tsv"))).damaged()
    assert "has the same label" in line


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Path:
    """A folder with the shipped parameters."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((PROJECT / "params.yaml").read_text())
    return tmp_path


def prepared(workspace: Path) -> dict[str, int]:
    """The duplicates that dataset.json tells, which are those that comparing all with all finds."""
    prepare.main(Path("data/raw"), Path("data/prepared"))
    told = read_json(Path("data/prepared/dataset.json"))["duplicates"]
    splits = {
        name: load_split(Path("data/prepared"), name).inputs
        for name in ("train", "validation", "test")
    }
    for pair, count in told.items():
        first, second = (splits[name] for name in pair.split(", "))
        assert count == sum(any(np.array_equal(row, other) for other in first) for row in second)
    assert len(told) == 3
    return told


def test_images_that_two_splits_share_are_counted_and_named(workspace, capsys):
    for seed, name in enumerate(("train", "val", "test")):
        write_image_folder(workspace / "pets" / name, {"cat": 4, "dog": 4}, sizes=[(9 + seed, 7)])
    pets = workspace / "pets"
    for copy in ("test/cat/900.png", "test/dog/901.png", "val/cat/902.png"):
        (pets / copy).write_bytes((pets / "train/cat/000.png").read_bytes())
    edit_params(Path("params.yaml"), dataset="imagefolder", data__source="pets", data__resize=16)
    told = prepared(workspace)
    assert told == {"train, validation": 1, "train, test": 2, "validation, test": 2}
    said = capsys.readouterr().out
    assert (
        "2 of 10 examples of test are in train too: pets/test/cat/900.png (as pets/train/cat/000.png)"
        in said
    )
    assert "1 of 9 examples of validation are in train too: pets/val/cat/902.png" in said


def test_names_of_what_two_splits_share_cannot_act_on_a_terminal(workspace, capsys):
    for seed, name in enumerate(("train", "val")):
        write_image_folder(workspace / "pets" / name, {"cat": 8, "dog": 8}, sizes=[(9 + seed, 7)])
    pets = workspace / "pets"
    Path(os.fsdecode(b"pets/val/cat/\xff\x1b[31m\n.png")).write_bytes(
        (pets / "train/cat/000.png").read_bytes()
    )
    edit_params(Path("params.yaml"), dataset="imagefolder", data__source="pets", data__resize=16)
    prepared(workspace)
    lines = capsys.readouterr().out.splitlines()
    assert any(r"\udcff\x1b[31m\n.png" in line for line in lines)
    assert all(line.isprintable() for line in lines)


def test_texts_that_two_splits_share_are_counted(workspace, capsys):
    rows = [f"{label}\ta {word} film" for label, word in (("bad", "dull"), ("good", "fine"))]
    for part, own in (("train", "one"), ("validation", "two"), ("test", "three")):
        lines = ["label\ttext", *rows, f"bad\tnumber {own}"]
        Path(f"{part}.tsv").write_text("\n".join(lines) + "\n")
    edit_params(Path("params.yaml"), dataset="text_tsv", model="bert", data__source=str(workspace))
    assert prepared(workspace) == {"train, validation": 2, "train, test": 2, "validation, test": 2}
    assert (
        "2 of 3 examples of test are in train too: example 0 (as example 0)"
        in capsys.readouterr().out
    )


def test_equal_hashes_alone_make_no_twins(monkeypatch):
    monkeypatch.setattr(describe, "_hashes", lambda part: np.zeros(len(part), np.uint64))
    images = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)
    splits = {
        name: Split(some, np.zeros(2, np.int64))
        for name, some in (("train", images[:2]), ("test", images[2:]))
    }
    assert describe.find_duplicates(splits) == {("train", "test"): []}


def test_nothing_is_said_of_splits_that_share_nothing(workspace, capsys):
    edit_params(Path("params.yaml"), dataset="digits")
    prepare.main(Path("data/raw"), Path("data/prepared"))
    told = json.loads(Path("data/prepared/dataset.json").read_text())["duplicates"]
    assert told == {"train, validation": 0, "train, test": 0, "validation, test": 0}
    assert "too" not in capsys.readouterr().out
