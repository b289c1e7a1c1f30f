"""Folders of images: layouts, modes, sizes, and every error."""

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.data import write_image_folder
from helpers.params import PROJECT, edit_params
from PIL import Image
from torchvision.transforms import functional as tv
from typer.testing import CliRunner

from prunelab.artifacts.prepared import load_split, save_prepared
from prunelab.cli import app
from prunelab.core.errors import InputError
from prunelab.core.files import read_json
from prunelab.data import splits
from prunelab.data.dataset import DataConfig
from prunelab.datasets.imagefolder import ImageFolder
from prunelab.datasets.images import centre_box, decode
from prunelab.stages import prepare

TWO = {"cat": 12, "dog": 18}


def image_folder(path: Path, resize: int | None = 6, **config: Any) -> ImageFolder:
    return ImageFolder(DataConfig(Path("unused"), path=str(path), resize=resize, **config))


def problems(dataset: ImageFolder) -> list[str]:
    """The lines that `prunelab check` prints, which `info` must raise as well."""
    lines = dataset.missing() + dataset.damaged()
    with pytest.raises(InputError) as error:
        dataset.info()
    assert error.value.problems == lines
    return lines


def test_classes_are_the_names_of_the_folders_sorted(tmp_path):
    write_image_folder(tmp_path, {"zebra": 3, "ant": 2, "dog 1": 4})
    (tmp_path / "ant/deep/er").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "ant/deep/er/x.JPG", format="jpeg")

    published = image_folder(tmp_path).read()

    assert published.class_names == ["ant", "dog 1", "zebra"]
    assert np.bincount(published.train.labels).tolist() == [3, 4, 3]
    for path, label in zip(published.train.paths, published.train.labels, strict=True):
        assert Path(path).relative_to(tmp_path).parts[0] == published.class_names[label]
    assert published.test is published.validation is None


def test_files_that_are_not_images_are_ignored_and_counted(tmp_path, capsys):
    write_image_folder(tmp_path, TWO)
    for name in ("README.md", "cat/notes.txt", "cat/._000.png", "dog/Thumbs.db"):
        (tmp_path / name).write_bytes(b"no image")
    (tmp_path / ".git").mkdir()

    published = image_folder(tmp_path).read()

    assert len(published.train) == 30
    output = capsys.readouterr().out
    assert "ignored 2 files that are not images" in output
    assert "skipped 2 files that macOS or Windows left there" in output


def test_links_to_folders_are_followed(tmp_path):
    write_image_folder(tmp_path / "pets", TWO)
    write_image_folder(tmp_path / "elsewhere", {"fox": 3, "more": 5, "hidden": 2})
    (tmp_path / "pets/fox").symlink_to("../elsewhere/fox")
    (tmp_path / "elsewhere/fox/deep").symlink_to("../more")
    (tmp_path / "pets/cat/more").symlink_to(tmp_path / "elsewhere/more")
    (tmp_path / "pets/cat/.hidden").symlink_to(tmp_path / "elsewhere/hidden")
    dataset = image_folder(tmp_path / "pets")
    before = dataset.digest()

    published = dataset.read()

    followed = []
    for path, _, names in os.walk(tmp_path / "pets", followlinks=True):
        followed += [f"{path}/{name}" for name in names if ".hidden" not in path]
    assert sorted(published.train.paths) == sorted(followed)
    assert np.bincount(published.train.labels).tolist() == [12 + 5, 18, 3 + 5]

    (tmp_path / "elsewhere/more/new.png").write_bytes(b"another")
    assert image_folder(tmp_path / "pets").digest() != before


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("cat/up", ".."),
        ("cat/deep/up", "../.."),
        ("cat/same", "."),
        ("whole", "."),
        ("cat/beyond", "../.."),
        ("dog/linked/back", "../../pets/dog"),
    ],
)
def test_links_to_a_folder_that_they_lie_in_are_an_error(tmp_path, link, target):
    root = tmp_path / "pets"
    write_image_folder(root, TWO)
    (root / "cat/deep").mkdir()
    (tmp_path / "elsewhere/inner").mkdir(parents=True)
    (root / "dog/linked").symlink_to("../../elsewhere/inner")
    (root / link).symlink_to(target)

    (line,) = problems(image_folder(root))

    assert f"1 links lead to a folder that they lie in: {root / link}. Remove" in line


def test_links_to_nowhere_are_ignored_and_named(tmp_path, capsys):
    write_image_folder(tmp_path, TWO)
    (tmp_path / "emu").symlink_to("no/such/folder")
    (tmp_path / "cat/more").symlink_to("more")  # to itself

    published = image_folder(tmp_path).read()

    assert len(published.train) == 30
    output = capsys.readouterr().out
    assert f"ignored 2 links to nowhere: {tmp_path}/cat/more, {tmp_path}/emu\n" in output
    assert "not images" not in output


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    write_image_folder(tmp_path, TWO)
    (tmp_path / "cat/closed").mkdir()
    scandir = os.scandir

    def without_permission(path: str) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", without_permission)

    with pytest.raises(PermissionError, match="cat/closed"):
        image_folder(tmp_path).read()


@pytest.mark.parametrize(
    ("layout", "test_from", "validation_from"),
    [
        (["train", "val"], "val", None),
        (["train", "validation"], "validation", None),
        (["train", "test"], "test", None),
        (["train", "val", "test"], "test", "val"),
        (["train"], None, None),
    ],
)
def test_official_splits_come_from_the_folders_of_their_names(
    tmp_path, layout, test_from, validation_from
):
    for count, name in enumerate(layout, start=3):
        write_image_folder(tmp_path / name, {"cat": count, "dog": count})

    published = image_folder(tmp_path).read()

    assert len(published.train) == 6
    assert published.class_names == ["cat", "dog"]
    assert split_folder(published.test, tmp_path) == test_from
    assert split_folder(published.validation, tmp_path) == validation_from
    assert image_folder(tmp_path).class_counts() == published.class_counts()


def split_folder(split, root: Path) -> str | None:
    """The folder that all images of a split come from."""
    if split is None:
        return None
    (folder,) = {Path(path).relative_to(root).parts[0] for path in split.paths}
    return folder


def test_a_test_folder_without_classes_is_not_used(tmp_path):
    for name in ("train", "val"):
        write_image_folder(tmp_path / name, TWO)
    (tmp_path / "test").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "test/unlabelled.png")

    published = image_folder(tmp_path).read()

    assert published.test is not None
    assert "val" in Path(published.test.paths[0]).parts


def test_a_test_folder_without_classes_beside_only_train_is_not_used(tmp_path):
    write_image_folder(tmp_path / "train", {"cat": 4, "dog": 4})
    write_image_folder(tmp_path, {"test": 3})

    published = image_folder(tmp_path).read()

    assert (published.test, len(published.train)) == (None, 8)


def test_classes_too_small_for_the_splits_are_named(tmp_path):
    write_image_folder(tmp_path, {"cat": 9, "dog": 2, "emu": 1})

    (line,) = problems(image_folder(tmp_path))

    assert "2 of 3 classes" in line
    assert "dog (2), emu (1)" in line


def test_classes_may_be_named_train_and_test(tmp_path):
    write_image_folder(tmp_path, {"train": 3, "test": 4, "bus": 3})
    assert image_folder(tmp_path).read().class_names == ["bus", "test", "train"]


def image_of_mode(mode: str, pixels: np.ndarray) -> tuple[Image.Image, str]:
    """An image of this mode that looks like the grey `pixels`, and the format to save it in."""
    grey = Image.fromarray(pixels)
    match mode:
        case "I;16":
            return Image.fromarray(pixels.astype(np.uint16) * 257), "png"
        case "I":
            return Image.fromarray(pixels.astype(np.int32) * 257), "tiff"
        case "RGBA":
            image = grey.convert("RGBA")
            image.putalpha(128)
            return image, "png"
        case "P with transparency":
            image = grey.convert("P")
            image.info["transparency"] = bytes(range(256))
            return image, "png"
        case "CMYK":
            return grey.convert("RGB").convert("CMYK"), "tiff"
        case "1":
            return Image.fromarray((pixels > 127).astype(np.uint8) * 255).convert("1"), "png"
        case _:
            return grey.convert(mode), "png"


MODES = ["L", "LA", "RGB", "RGBA", "P", "P with transparency", "CMYK", "I;16", "I", "1"]


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_is_decoded_to_the_rgb_it_looks_like(tmp_path, mode):
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image, image_format = image_of_mode(mode, pixels)
    path = tmp_path / f"x.{image_format}"
    image.save(path)

    with warnings.catch_warnings(action="error"):
        decoded = decode(str(path), None)

    expected = pixels
    if mode == "1":
        expected = (pixels > 127) * np.uint8(255)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, np.stack([expected] * 3))


@pytest.mark.parametrize("size", [(40, 20), (20, 40), (32, 32), (8, 16)])
def test_a_resized_image_is_its_centre_square(tmp_path, size):
    across, down = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    image = Image.fromarray(np.stack([across, down, 255 - across], axis=-1).astype(np.uint8))
    image.save(tmp_path / "x.png")

    decoded = decode(str(tmp_path / "x.png"), 10)

    expected = np.asarray(tv.center_crop(tv.resize(image, [10]), [10])).transpose(2, 0, 1)
    # torchvision resizes before it crops, so at the edge it sees pixels beyond the crop.
    inside = slice(None), slice(2, -2), slice(2, -2)
    np.testing.assert_allclose(decoded[inside].astype(int), expected[inside].astype(int), atol=2)


def test_chunks_decode_the_files_in_order(tmp_path, monkeypatch):
    write_image_folder(tmp_path, TWO)
    monkeypatch.setattr(splits, "CHUNK_BYTES", 7 * 3 * 6 * 6)
    files = image_folder(tmp_path).read().train.at(np.array([20, 3, 11, 0, 7, 8, 9, 10, 29]))

    chunks = list(files.chunks())

    assert [len(chunk) for chunk in chunks] == [7, 2]
    np.testing.assert_array_equal(np.concatenate(chunks), [decode(path, 6) for path in files.paths])


def test_files_are_resized_as_the_parameters_say(tmp_path):
    write_image_folder(tmp_path, TWO)

    bilinear, bicubic = (
        next(image_folder(tmp_path, interpolation=way).read().train.chunks())
        for way in ("bilinear", "bicubic")
    )

    path = str(image_folder(tmp_path).read().train.paths[0])
    with Image.open(path) as image:
        box = centre_box(image.size, (6, 6))
        expected = image.convert("RGB").resize((6, 6), Image.Resampling.BICUBIC, box=box)
    np.testing.assert_array_equal(bicubic[0], np.asarray(expected).transpose(2, 0, 1))
    assert not np.array_equal(bilinear, bicubic)


def test_images_of_one_size_need_no_resizing(tmp_path):
    write_image_folder(tmp_path, TWO, sizes=[(9, 7)])

    dataset = image_folder(tmp_path, resize=None)

    assert dataset.info().shape == (3, 7, 9)
    assert next(dataset.read().train.chunks()).shape == (30, 3, 7, 9)


def test_images_of_two_sizes_are_an_error_unless_resized(tmp_path):
    write_image_folder(tmp_path, TWO)

    (line,) = problems(image_folder(tmp_path, resize=None))

    for part in ("data.resize is null", "9x7", "6x8", "cat/000.png", "cat/001.png"):
        assert part in line
    assert not image_folder(tmp_path, resize=6).damaged()


@pytest.mark.parametrize(
    ("layout", "named"),
    [
        ({}, ["no class folders", "at least two"]),
        ({"cat": 3}, ["only the class folder cat"]),
        ({"cat": 3, "dog": 0, "emu": 0}, ["without images in train: dog, emu"]),
        (
            {"train/cat": 2, "train/dog": 2, "val/cat": 2, "val/emu": 2},
            ["dog (only in train)", "emu (only in val)"],
        ),
        (
            {"train/cat": 2, "train/dog": 2, "val/cat": 2, "val/dog": 0},
            ["without images in val: dog"],
        ),
        (
            {"Train/cat": 3, "Train/dog": 3, "Test/cat": 3},
            ["Test, Train", "look like official splits"],
        ),
        ({"train": 5, "test": 5}, ["test, train", "look like official splits"]),
        ({"train/cat": 3, "train/dog": 3, "extra": 3}, ["train", "look like official splits"]),
        ({"val/cat": 3, "val/dog": 3, "test/cat": 3}, ["test, val", "look like official splits"]),
    ],
)
def test_folders_without_usable_classes_are_an_error(tmp_path, layout, named):
    write_image_folder(tmp_path, layout)

    (line,) = problems(image_folder(tmp_path))

    for part in (str(tmp_path), *named):
        assert part in line


@pytest.mark.parametrize(
    ("path", "named"), [(None, "data.source: null"), ("no/such", "no/such is not a folder")]
)
def test_a_missing_source_is_an_error_and_cannot_be_downloaded(path, named):
    dataset = ImageFolder(DataConfig(Path("unused"), path=path, resize=6))

    (line,) = problems(dataset)

    assert named in line
    assert not dataset.reachable()
    with pytest.raises(InputError, match=named):
        dataset.download()


def test_undecodable_images_are_named_and_nothing_is_written(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    for name in ("train", "val"):
        write_image_folder(source / name, TWO)
    for index in range(7):
        image = source / f"train/cat/{index:03}.png"
        image.write_bytes(image.read_bytes()[: index * 20])
    (source / "val/dog/000.png").write_bytes(b"GIF89a, or not")
    published = image_folder(source).read()

    with pytest.raises(InputError) as error:
        save_prepared(out, {"train": published.train, "test": published.test}, lambda splits: {})

    first, second = error.value.problems
    assert first.startswith("train: 7 of 30 images cannot be decoded")
    assert first.count("train/cat/") == 5
    assert first.endswith("and 2 more")
    assert "val/dog/000.png (UnidentifiedImageError" in second
    assert not [path for path in out.rglob("*") if path.is_file()]


def test_images_beyond_pillows_limit_or_of_floats_are_an_error(tmp_path, monkeypatch):
    write_image_folder(tmp_path, TWO)
    Image.new("RGB", (100, 100)).save(tmp_path / "cat/bomb.png")
    Image.fromarray(np.zeros((9, 9), np.float32)).save(tmp_path / "cat/float.tif")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)  # twice as many are an error

    with pytest.raises(InputError) as error:
        list(image_folder(tmp_path).read().train.chunks())

    (line,) = error.value.problems
    assert "2 of 32" in line
    assert "bomb.png (DecompressionBombError" in line
    assert "float.tif (ValueError: pixels are floating-point" in line


def test_a_very_long_image_needs_no_more_memory_than_its_square(tmp_path):
    Image.new("RGB", (2, 60000), (10, 20, 30)).save(tmp_path / "long.png")

    # Resized before it was cropped, it would have 500 x 15,000,000 pixels.
    decoded = decode(str(tmp_path / "long.png"), 500)

    np.testing.assert_array_equal(decoded[:, 0, 0], [10, 20, 30])
    assert decoded.shape == (3, 500, 500)


def test_the_digest_does_not_depend_on_the_place_or_on_other_files(tmp_path):
    write_image_folder(tmp_path / "a", TWO)
    write_image_folder(tmp_path / "b", TWO)
    digest = image_folder(tmp_path / "a").digest()
    assert image_folder(tmp_path / "b").digest() == digest

    (tmp_path / "b/note.txt").write_text("no image")

    assert image_folder(tmp_path / "b").digest() == digest


def test_the_digest_changes_with_names_and_sizes_of_images(tmp_path):
    write_image_folder(tmp_path, TWO)
    digests = {image_folder(tmp_path).digest()}

    (tmp_path / "cat/000.png").rename(tmp_path / "dog/new.png")
    digests.add(image_folder(tmp_path).digest())
    with (tmp_path / "dog/new.png").open("ab") as file:
        file.write(b"x")
    digests.add(image_folder(tmp_path).digest())

    assert len(digests) == 3


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Path:
    """A folder with the shipped parameters, for images in `pets`."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text((PROJECT / "params.yaml").read_text())
    write_image_folder(Path("pets"), {"cat": 20, "dog": 40})
    edit_params(Path("params.yaml"), dataset="imagefolder", data__source="pets", data__resize=16)
    return tmp_path


def check(**changes: object) -> list[str]:
    edit_params(Path("params.yaml"), **changes)
    result = CliRunner().invoke(app, ["check"])
    assert result.exit_code == (1 if result.stderr else 0)
    return result.stderr.splitlines()


def test_prepare_refuses_splits_without_a_class_in_the_words_of_check(workspace):
    (line,) = check(data__test_fraction=0.01)

    with pytest.raises(InputError) as error:
        prepare.main(Path("data/raw"), Path("data/prepared"))

    assert error.value.problems == [line]
    assert not Path("data/prepared").exists()


def test_prepare_writes_splits_and_describes_them(workspace):
    assert check() == []

    prepare.main(Path("data/raw"), Path("data/prepared"))

    info = read_json(Path("data/prepared/dataset.json"))
    assert info["classes"] == ["cat", "dog"]
    assert info["shape"] == [3, 16, 16]
    assert info["counts_per_class"] == {"train": [13, 27], "validation": [2, 3], "test": [5, 10]}
    train = load_split(Path("data/prepared"), "train")
    np.testing.assert_allclose(info["mean"], (train.inputs / 255).mean(axis=(0, 2, 3)), atol=1e-6)
    assert check() == []


def test_check_reports_a_source_that_changed_after_it_was_prepared(workspace):
    prepare.main(Path("data/raw"), Path("data/prepared"))

    Path("pets/cat/000.png").unlink()

    (line,) = check()
    assert "pets has changed since it was prepared" in line
    assert "dvc repro -f prepare" in line

    prepare.main(Path("data/raw"), Path("data/prepared"))
    assert check() == []


def test_prepared_data_needs_its_source_only_if_parameters_change(workspace):
    prepare.main(Path("data/raw"), Path("data/prepared"))
    Path("pets").rename("elsewhere")

    assert check() == []
    (line,) = check(data__resize=8)
    assert "pets is not a folder" in line


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"data__source": None}, "data.source: null"),
        ({"data__source": "nowhere"}, "nowhere is not a folder"),
        ({"data__resize": None}, "data.resize is null"),
        ({"data__normalise": {"mean": [0.5], "std": [0.5]}}, "imagefolder has 3 channels"),
        (
            {"data__validation_fraction": 0.01},
            "leaves validation without 1 of 2 classes: cat (20); what would fit",
        ),
    ],
)
def test_check_reports_each_problem_once(workspace, changes, named):
    (line,) = check(**changes)

    assert named in line
