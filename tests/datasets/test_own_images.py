"""What people's own folders hold: leftovers, turned images, contradicting labels, damaged files."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.data import write_image_folder
from helpers.params import PROJECT, edit_params
from PIL import Image, ImageOps
from typer.testing import CliRunner

from prunelab.artifacts.prepared import load_split
from prunelab.cli import app
from prunelab.core.errors import InputError
from prunelab.core.files import read_json
from prunelab.datasets.images import Orientation, decode, size_of
from prunelab.stages import prepare

ORIENTATION = 0x0112
PREPARED = Path("data/prepared")


@pytest.fixture
def pets(tmp_path, monkeypatch) -> Path:
    """A folder of 20 cats and 40 dogs, which the parameters of this workspace name."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text((PROJECT / "params.yaml").read_text())
    write_image_folder(Path("pets"), {"cat": 20, "dog": 40})
    edit_params(Path("params.yaml"), dataset="imagefolder", data__source="pets", data__resize=16)
    return Path("pets")


def prepared() -> dict:
    prepare.main(Path("data/raw"), PREPARED)
    return read_json(PREPARED / "dataset.json")


def check() -> tuple[list[str], list[str]]:
    """What `prunelab check` says of problems, and besides them."""
    result = CliRunner().invoke(app, ["check"])
    return result.stderr.splitlines(), result.stdout.splitlines()


def test_what_macos_and_windows_leave_is_skipped_and_counted(pets, capsys):
    # As `zip -r` of a Mac's Finder unpacks elsewhere, with files of Windows among them.
    (pets / "__MACOSX/cat").mkdir(parents=True)
    (pets / "dog/__MACOSX").mkdir()
    left = [
        *("__MACOSX/cat/._000.png", "__MACOSX/._cat", "dog/__MACOSX/000.png"),
        *(".DS_Store", "cat/.DS_Store", "cat/._001.png", "cat/Thumbs.db", "dog/Desktop.ini"),
    ]
    for name in left:
        (pets / name).write_bytes(b"no image")

    problems, notes = check()
    assert problems == []
    assert any(f"skipped {len(left)} files" in note for note in notes)

    info = prepared()
    assert info["classes"] == ["cat", "dog"]
    assert info["leftovers"] == len(left)
    assert sum(info["counts"].values()) == 60
    output = capsys.readouterr().out
    assert f"pets: skipped {len(left)} files that macOS or Windows left there" in output
    assert "ignored" not in output
    assert any(f"skipped {len(left)} files" in note for note in check()[1])


def test_leftovers_beside_official_splits_are_counted(pets):
    (pets / "train").mkdir()
    (pets / "val").mkdir()
    for name in ("cat", "dog"):
        shutil.copytree(pets / name, pets / "val" / name)
        (pets / name).rename(pets / "train" / name)
    (pets / "__MACOSX/train").mkdir(parents=True)
    for name in ("__MACOSX/train/._cat", "Thumbs.db", "val/.DS_Store"):
        (pets / name).write_bytes(b"no image")

    assert prepared()["leftovers"] == 3


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("tag", range(1, 9))
def test_an_image_is_turned_as_its_camera_was_held(tmp_path, ending, tag):
    """Pillow's own function is the reference."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    path = tmp_path / f"x.{ending}"
    exif = Image.Exif()
    exif[ORIENTATION] = tag
    Image.fromarray(pixels).save(path, exif=exif)
    orientation = Orientation()

    decoded = decode(str(path), None, orientation=orientation)

    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(decoded, expected)
    assert orientation.turned == (tag != 1)
    assert size_of(str(path), turn=True) == (decoded.shape[2], decoded.shape[1])


@pytest.mark.filterwarnings("ignore:.*EXIF data:UserWarning")  # Pillow's
def test_a_damaged_tag_leaves_the_image_as_it_is(tmp_path):
    path = tmp_path / "x.jpg"
    Image.new("RGB", (9, 6), (10, 200, 30)).save(path, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff broken")

    assert decode(str(path), None, orientation=Orientation()).shape == (3, 6, 9)


def turn_first_cats(pets: Path, count: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    for index in range(count):
        path = pets / f"cat/{index:03}.png"
        with Image.open(path) as image:
            image.load()
        image.save(path, exif=exif)


def test_turned_images_are_counted_unless_tags_are_ignored(pets, capsys):
    ignored = load_all(exif="ignore")
    turn_first_cats(pets, 3)
    np.testing.assert_array_equal(load_all(exif="ignore"), ignored)
    assert read_json(PREPARED / "dataset.json")["turned"] == 0

    turned = load_all(exif="apply")

    assert read_json(PREPARED / "dataset.json")["turned"] == 3
    assert read_json(PREPARED / "dataset.json")["exif"] == "apply"
    assert "3 images were turned as their EXIF orientation says" in capsys.readouterr().out
    different = np.flatnonzero((turned != ignored).any(axis=(1, 2, 3)))
    assert len(different) == 3


def load_all(**changes: str) -> np.ndarray:
    edit_params(Path("params.yaml"), **{f"data__{key}": value for key, value in changes.items()})
    prepared()
    splits = [load_split(PREPARED, name).inputs for name in ("train", "validation", "test")]
    return np.concatenate(splits)


def contradict(pets: Path, count: int) -> None:
    """Let so many cats lie among the dogs too, in files of other bytes."""
    for index in range(count):
        with Image.open(pets / f"cat/{index:03}.png") as image:
            image.save(pets / f"dog/copy{index}.bmp")


def test_equal_images_with_different_labels_are_counted_and_named(pets, capsys):
    contradict(pets, 2)
    edit_params(Path("params.yaml"), data__conflicts="keep")

    info = prepared()

    assert info["conflicts"]["pairs"] == {"cat, dog": 2}
    assert info["conflicts"]["examples"] == 4
    output = capsys.readouterr().out
    assert "2 equal inputs are labelled both cat and dog: " in output
    for index in range(2):
        assert f"pets/cat/{index:03}.png = pets/dog/copy{index}.bmp" in output
    assert any("2 equal inputs have both labels of cat, dog: pets/cat/" in n for n in check()[1])


def test_many_contradicting_labels_are_refused_and_nothing_is_written(pets):
    contradict(pets, 1)  # 2 of 61 images

    with pytest.raises(InputError) as error:
        prepared()

    assert error.value.problems == [
        "1 equal inputs are labelled both cat and dog: pets/cat/000.png = pets/dog/copy0.bmp",
        "data.conflicts: 2 of 61 examples (3.3%) are equal to one with another label; more than "
        "1% are refused. Correct the labels, or set data.conflicts: drop to leave them out, or "
        "keep",
    ]
    assert not [path for path in Path("data").rglob("*") if path.is_file()]


def test_few_contradicting_labels_are_not_refused(pets):
    write_image_folder(Path("more"), {"dog": 200}, sizes=[(11, 11)])
    for path in Path("more/dog").iterdir():
        path.rename(pets / f"dog/more{path.name}")
    contradict(pets, 1)  # 2 of 261 images

    assert prepared()["conflicts"]["examples"] == 2


def test_contradicting_images_are_dropped_if_the_parameters_say_so(pets, capsys):
    contradict(pets, 3)
    edit_params(Path("params.yaml"), data__conflicts="drop")

    info = prepared()

    assert sum(info["counts"].values()) == 60 - 3
    assert info["conflicts"]["dropped"] == 6
    assert info["conflicts"]["pairs"] == {"cat, dog": 3}
    assert "left out 6 images with contradicting labels" in capsys.readouterr().out


def test_check_refuses_a_class_that_is_a_link_to_another_before_anything_runs(pets):
    (pets / "kitten").symlink_to("cat")

    problems, _ = check()

    assert "20 equal inputs are labelled both cat and kitten: pets/cat/000.png = " in problems[0]
    assert "data.conflicts: 40 of 80 examples (50.0%)" in problems[1]
    edit_params(Path("params.yaml"), data__conflicts="keep")
    assert check()[0] == []


def damage(pets: Path, count: int) -> None:
    for index in range(count):
        (pets / f"dog/{index:03}.png").write_bytes(b"\x89PNG\r\n\x1a\n, or not")


def test_images_that_cannot_be_decoded_are_left_out_up_to_a_share(pets, capsys):
    damage(pets, 3)
    edit_params(Path("params.yaml"), data__unreadable=0.05)

    info = prepared()

    assert info["unreadable"] == 3
    assert sum(info["counts"].values()) == 57
    output = capsys.readouterr().out
    assert "left out 3 images that cannot be decoded" in output
    assert "pets/dog/000.png" in output
    assert any("left out 3 images that cannot be decoded" in note for note in check()[1])


@pytest.mark.parametrize("share", [0.0, 0.04])
def test_more_undecodable_images_than_that_are_an_error(pets, share):
    damage(pets, 3)
    edit_params(Path("params.yaml"), data__unreadable=share)

    with pytest.raises(InputError) as error:
        prepared()

    assert "cannot be decoded: pets/dog/" in error.value.problems[0]
    advice = error.value.problems[-1]
    assert advice.startswith("data.unreadable: 3 images cannot be decoded, more than the share")
    assert not PREPARED.exists() or not any(PREPARED.rglob("*.npy"))


def test_a_class_that_is_unreadable_throughout_is_an_error(pets):
    for path in (pets / "cat").iterdir():
        path.write_bytes(b"no image")
    edit_params(Path("params.yaml"), data__unreadable=0.5)

    with pytest.raises(InputError, match="train has no image of cat"):
        prepared()


def test_unreadable_images_without_resizing_keep_to_the_same_share(pets):
    for path in list(pets.rglob("*.png")):
        with Image.open(path) as image:
            square = image.resize((8, 8))
        square.save(path)
    damage(pets, 2)
    edit_params(Path("params.yaml"), data__resize=None, data__unreadable=0.0)
    (line,) = check()[0]
    assert "2 images cannot be read" in line

    edit_params(Path("params.yaml"), data__unreadable=0.1)
    assert prepared()["unreadable"] == 2


def test_a_class_with_one_image_is_an_error_in_one_line(pets):
    (pets / "emu").mkdir()
    shutil.copy(pets / "cat/000.png", pets / "emu/only.png")

    (line,) = check()[0]

    assert "1 of 3 classes have fewer than the 3 examples" in line
    assert line.endswith("emu (1)")


def test_photographs_in_cmyk_and_of_16_bits_are_read(pets):
    cmyk = Image.new("RGB", (20, 20), (250, 10, 10)).convert("CMYK")
    cmyk.save(pets / "cat/print.jpg")
    deep = np.full((20, 20), 40_000, np.uint16)
    Image.fromarray(deep).save(pets / "cat/scan.png")
    edit_params(Path("params.yaml"), data__conflicts="keep")

    assert sum(prepared()["counts"].values()) == 62
    red, green, blue = decode(str(pets / "cat/print.jpg"), None).mean(axis=(1, 2))
    assert red > 200 > 60 > max(green, blue)
    assert (decode(str(pets / "cat/scan.png"), None) == 40_000 >> 8).all()
