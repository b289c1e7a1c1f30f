"""Photographs in one folder, with a table of their labels as Kaggle and Hugging Face have it."""

from pathlib import Path

import numpy as np
import pytest
from helpers.params import PROJECT, edit_params
from PIL import Image
from typer.testing import CliRunner

from prunelab.cli import app
from prunelab.core.errors import InputError
from prunelab.core.files import read_json
from prunelab.data.dataset import DataConfig
from prunelab.datasets.datasets import DATASETS
from prunelab.datasets.imagefolder import ImageFolder
from prunelab.datasets.imagetable import ImageTable, within
from prunelab.stages import prepare

CATS = [f"{index:03}.jpg" for index in range(6)]
DOGS = [f"deep/{index:03}.png" for index in range(10)]


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    """A folder with images of two classes, in a workspace."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    (tmp_path / "photos/deep").mkdir(parents=True)
    for name in CATS + DOGS:
        pixels = random.integers(0, 256, (7, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(Path("photos") / name)
    return Path("photos")


def write(*rows: str, header: str = "file,label", name: str = "labels.csv") -> str:
    Path(name).write_text("\n".join([header, *rows]) + "\n")
    return name


def all_rows(separator: str = ",") -> list[str]:
    rows = [f"{name}{separator}cat" for name in CATS]
    return rows + [f"{name}{separator}dog" for name in DOGS]


def table(name: str = "labels.csv", **options: object) -> ImageTable:
    config = {"path": "photos", "resize": 8, "table": name} | options
    dataset = DATASETS["imagefolder"](DataConfig(Path("unused"), **config))
    assert isinstance(dataset, ImageTable)
    return dataset


def labels(dataset: ImageTable) -> dict[str, str]:
    published = dataset.read()
    names = [published.class_names[label] for label in published.train.labels]
    paths = [str(Path(path).relative_to("photos")) for path in published.train.paths]
    return dict(zip(paths, names, strict=True))


EXPECTED = dict.fromkeys(CATS, "cat") | dict.fromkeys(DOGS, "dog")


def test_without_a_table_folders_are_the_classes():
    assert isinstance(DATASETS["imagefolder"](DataConfig(Path("unused"))), ImageFolder)


@pytest.mark.parametrize(
    ("name", "separator", "header", "options"),
    [
        ("labels.csv", ",", "file,label", {}),
        ("labels.tsv", "\t", "file\tlabel", {}),
        ("labels.csv", ";", "file;label", {}),
        # As Hugging Face's image folders have it, the table within the folder.
        ("photos/metadata.csv", ",", "file_name,class", {"file_column": "file_name"}),
    ],
)
def test_labels_come_from_the_table(photos, name, separator, header, options):
    write(*all_rows(separator), header=header, name=name)
    if "class" in header:
        options = options | {"label_column": "class"}

    assert labels(table(name, **options)) == EXPECTED


def test_names_may_lack_their_suffix_as_kaggles_do(photos):
    write(*(row.replace(".jpg", "").replace(".png", "") for row in all_rows()))

    assert labels(table()) == EXPECTED


def test_a_table_within_the_folder_is_found_there(photos):
    write(*all_rows(), name="photos/labels.csv")

    assert labels(table("labels.csv")) == EXPECTED


def test_numbers_as_labels_are_in_the_order_of_their_values(photos):
    write(*(f"{name},{10 if name in CATS else 9}" for name in CATS + DOGS))

    assert table().read().class_names == ["9", "10"]


def test_a_column_of_splits_makes_official_ones(photos):
    files = CATS[:6] + DOGS[:6]
    splits = ["train", "Train", "val", "val", "test", "test"] * 2
    rows = [
        f"{name},{'cat' if name in CATS else 'dog'},{split}"
        for name, split in zip(files, splits, strict=True)
    ]
    write(*rows, header="file,label,split")

    published = table().read()

    assert len(published.train) == len(published.validation) == len(published.test) == 4
    assert {Path(path).name for path in published.test.paths} == {"004.jpg", "005.jpg"} | {
        "004.png",
        "005.png",
    }
    assert table().class_counts() == published.class_counts()
    assert table(split_column=None).read().test is None


def test_validation_alone_beside_training_is_the_test_split_as_in_folders(photos):
    rows = [f"{row},{'valid' if index % 2 else 'train'}" for index, row in enumerate(all_rows())]
    write(*rows, header="file,label,split")

    published = table().read()

    assert published.validation is None
    assert len(published.test) == 8


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ("nowhere.jpg,cat", "1 rows name a file that is not in photos: line 18 (nowhere.jpg)"),
        ("../photos2/x.jpg,cat", "1 rows name a file outside the folder: line 18 (../photos2"),
        ("/etc/passwd,cat", "1 rows name a file outside the folder: line 18 (/etc/passwd)"),
        ("000.jpg,", "1 rows have no label in column label: line 18"),
        (",cat", "1 rows have no file in column file: line 18"),
        ("000.jpg", "1 rows do not have the 2 fields of the header: line 18 (1)"),
        ("000.jpg,dog", "1 files have several labels: 000.jpg (cat and dog)"),
        ("twice,cat", "1 rows name several files; write their suffixes: line 18 (twice)"),
    ],
)
def test_a_row_that_cannot_be_right_is_an_error_in_one_line(photos, row, named):
    for ending in ("png", "bmp"):
        Image.new("RGB", (9, 7)).save(photos / f"twice.{ending}")
    write(*all_rows(), row)

    (line,) = table().damaged()

    assert line.startswith("data.table: labels.csv")
    assert named in line
    with pytest.raises(InputError) as error:
        table().info()
    assert error.value.problems == [line]


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("a.jpg", "a.jpg"),
        ("./deep/../a.jpg", "a.jpg"),
        ("deep\\a.jpg", "deep/a.jpg"),
        ("../a.jpg", None),
        ("deep/../../photos2/a.jpg", None),
        ("/photos/a.jpg", None),
        ("..a.jpg", "..a.jpg"),
    ],
)
def test_paths_lead_nowhere_but_into_the_folder(file, expected):
    assert within(file, Path("data/photos")) == expected


def test_unknown_splits_are_named_with_what_can_be_done(photos):
    write(
        *(f"{row},fold{index}" for index, row in enumerate(all_rows())), header="file,label,split"
    )

    (line,) = table().damaged()

    assert "16 rows have a split other than train, validation and test" in line
    assert "data.split_column: null" in line
    assert table(split_column=None).damaged() == []


def test_one_class_only_is_an_error(photos):
    write(*(f"{name},cat" for name in CATS))

    (line,) = table().damaged()

    assert "every image has the same label" in line


def test_a_class_with_one_image_is_an_error(photos):
    write(*all_rows()[1:], "000.jpg,emu")

    (line,) = table().damaged()

    assert "emu (1)" in line


def test_labels_that_only_one_split_has_are_named(photos):
    rows = [f"{row},{'test' if 'dog' in row else 'train'}" for row in all_rows()]
    write(*rows[:-1], "deep/009.png,emu,train", header="file,label,split")

    lines = table().damaged()

    assert any("labels of train that test lacks: cat, emu" in line for line in lines)
    assert any("labels of test that train lacks: dog" in line for line in lines)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"path": None}, "data.source: null"),
        ({"path": "nowhere"}, "nowhere is not a folder"),
        ({"table": "no.csv"}, "data.table: no.csv is neither a file nor one in photos or in its"),
    ],
)
def test_a_missing_folder_or_table_is_an_error(photos, options, named):
    (line,) = table(**options).missing()

    assert named in line


def test_a_header_without_the_columns_is_an_error_that_lists_its_own(photos):
    write(*all_rows(), header="image,id")

    (line,) = table().damaged()

    assert "data.file_column: labels.csv has no column 'file'; its columns: 'image', 'id'" in line


def test_repeated_rows_count_once_and_surplus_files_are_named(photos, capsys):
    write(*all_rows()[1:], "001.jpg,cat", "001.jpg,cat")
    (photos / ".DS_Store").write_bytes(b"x")
    (photos / "__MACOSX").mkdir()
    (photos / "__MACOSX/001.jpg").write_bytes(b"x")

    published = table().read()

    assert len(published.train) == 15
    assert published.record == {
        "leftovers": 2,
        "not_in_table": 1,
        "repeated_rows": 2,
        "dropped_files": 0,
    }
    output = capsys.readouterr().out
    assert "1 images are not in labels.csv: 000.jpg" in output
    assert "2 rows repeat another row" in output


@pytest.mark.parametrize(("choice", "count"), [("drop", 15), ("keep", 17)])
def test_a_file_with_two_labels_is_dropped_or_kept_twice(photos, choice, count):
    write(*all_rows(), "000.jpg,dog")

    published = table(conflicts=choice).read()

    assert len(published.train) == count
    assert published.record["dropped_files"] == (choice == "drop")


def test_the_digest_changes_with_the_table_and_the_images(photos):
    write(*all_rows())
    digests = {table().digest(), table().digest()}
    assert len(digests) == 1

    write(*all_rows()[1:], "000.jpg,dog")
    digests.add(table(conflicts="keep").digest())
    with (photos / "000.jpg").open("ab") as file:
        file.write(b"x")
    digests.add(table(conflicts="keep").digest())

    assert len(digests) == 3


def test_check_and_prepare_take_a_table(photos):
    Path("params.yaml").write_text((PROJECT / "params.yaml").read_text())
    changes = {"source": "photos", "resize": 16, "table": "labels.csv", "validation_fraction": 0.2}
    edit_params(
        Path("params.yaml"),
        dataset="imagefolder",
        **{f"data__{key}": value for key, value in changes.items()},
    )
    write(*all_rows())

    result = CliRunner().invoke(app, ["check"])
    assert result.exit_code == 0, result.stderr
    prepare.main(Path("data/raw"), Path("data/prepared"))

    info = read_json(Path("data/prepared/dataset.json"))
    assert info["classes"] == ["cat", "dog"]
    assert sum(info["counts"].values()) == 16
    assert CliRunner().invoke(app, ["check"]).exit_code == 0

    with Path("labels.csv").open("a") as file:
        file.write("001.jpg,cat\n")
    assert "has changed since it was prepared" in CliRunner().invoke(app, ["check"]).stderr


def test_all_problems_of_a_table_are_named_in_one_round(photos):
    write(*all_rows(), "nowhere,cat", "../x.png,cat", "000.jpg,dog", ",cat", "000.jpg,")

    lines = table().damaged()

    assert len(lines) == 5
    for line, part in zip(
        lines, ["no file", "no label", "outside", "not in photos", "several labels"], strict=True
    ):
        assert part in line


def test_each_split_may_have_a_table_of_its_own_as_hugging_face_has_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for count, split in enumerate(("train", "test", "validation"), start=4):
        folder = Path("photos") / split
        folder.mkdir(parents=True)
        rows = []
        for index in range(count):
            Image.new("RGB", (8, 8), (count, index, 0)).save(folder / f"{index}.png")
            rows.append(f"{index}.png,{'ant' if index % 2 else 'bee'}")
        write(*rows, header="file_name,label", name=f"photos/{split}/metadata.csv")

    published = table("metadata.csv", file_column="file_name").read()

    parts = (published.train, published.test, published.validation)
    assert [len(part) for part in parts] == [4, 5, 6]
    assert {Path(path).parent.name for path in published.test.paths} == {"test"}

    with Path("photos/test/metadata.csv").open("a") as file:
        file.write("../train/0.png,bee\n")
    (line,) = table("metadata.csv", file_column="file_name").damaged()
    assert "photos/test/metadata.csv: 1 rows name a file outside the folder: line 7" in line

    Path("photos/train/metadata.csv").unlink()
    (line,) = table("metadata.csv", file_column="file_name").missing()
    assert "neither a file nor one in photos or in its folder train" in line


def test_a_file_in_two_splits_is_an_error(photos):
    rows = [f"{row},{'test' if index % 2 else 'train'}" for index, row in enumerate(all_rows())]
    write(*rows, "000.jpg,cat,test", header="file,label,split")

    (line,) = table().damaged()

    assert "1 files have several splits: 000.jpg (test and train)" in line
