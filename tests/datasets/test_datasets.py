"""Every data set of the table, and prepared splits on disk."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from helpers.data import write_image_folder
from helpers.params import PROJECT
from sklearn.datasets import load_digits

from prunelab.artifacts.prepared import load_split, save_prepared
from prunelab.core.errors import InputError
from prunelab.data.dataset import DataConfig
from prunelab.data.splits import Split, three_way_split
from prunelab.datasets.datasets import DATASETS
from prunelab.datasets.manifest import describe

RAW = Path(os.environ.get("PRUNELAB_DATA", PROJECT / "data/raw"))


def config_of(name: str, folder: Path) -> DataConfig:
    """Where a data set can be read from: images are made in `folder`, the others lie in RAW."""
    if name != "imagefolder":
        return DataConfig(RAW)
    write_image_folder(folder, {"cat": 20, "dog": 40})
    return DataConfig(RAW, path=str(folder), resize=6)


@pytest.mark.parametrize("name", DATASETS)
def test_each_data_set_matches_its_info_and_splits_by_class(name, tmp_path):
    dataset = DATASETS[name](config_of(name, tmp_path))
    if dataset.missing():
        pytest.skip(f"{name} is not in {RAW} (set PRUNELAB_DATA to where it is)")

    info, published = dataset.info(), dataset.read()
    splits = three_way_split(published, test_fraction=0.25, validation_fraction=0.1, seed=0)

    assert not dataset.damaged()
    assert len(published.class_names) == info.classes
    counts, expected_counts = dataset.class_counts(), published.class_counts()
    assert list(counts.train.values()) == list(expected_counts.train.values())
    assert (counts.has_test, counts.has_validation) == (
        expected_counts.has_test,
        expected_counts.has_validation,
    )
    train_shares = class_shares(published.train.labels, info.classes)
    for split in splits.values():
        assert split.dtype == (np.uint8 if len(info.shape) == 3 else np.int64)
        assert split.shape == info.shape
        assert split.labels.dtype == np.int64

        chunks = list(split.chunks())
        assert sum(map(len, chunks)) == len(split)
        assert {(chunk.shape[1:], chunk.dtype) for chunk in chunks} == {(split.shape, split.dtype)}

        shares = class_shares(split.labels, info.classes)
        np.testing.assert_allclose(shares, train_shares, atol=1 / len(split))
    if published.test is not None:
        assert splits["test"] is published.test


def class_shares(labels: np.ndarray, classes: int) -> np.ndarray:
    return np.bincount(labels, minlength=classes) / len(labels)


def test_classes_of_cifar_are_counted_without_its_files(tmp_path):
    for name, classes in (("cifar10", 10), ("cifar100", 100)):
        counts = DATASETS[name](DataConfig(tmp_path)).class_counts()

        assert list(counts.train.values()) == [50_000 // classes] * classes
        assert (counts.has_test, counts.has_validation) == (True, False)


def test_digits_are_those_that_scikit_learn_loads():
    expected = load_digits()

    published = DATASETS["digits"](DataConfig(RAW)).read()

    images = published.train.inputs[:, 0]
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, np.rint(expected.images * 255 / 16))
    np.testing.assert_array_equal(published.train.labels, expected.target)
    assert published.class_names == list(map(str, expected.target_names))


@pytest.mark.parametrize("name", ["digits", "cifar10", "cifar100"])
def test_published_images_are_resized_for_networks_but_not_in_memory(name):
    plain, resized = (DATASETS[name](DataConfig(RAW, resize=side)) for side in (None, 224))

    assert resized.info().shape == (plain.info().shape[0], 224, 224)
    assert resized.info().classes == plain.info().classes
    if not resized.missing():
        assert resized.read().train.shape == plain.info().shape


def test_cifar_names_missing_and_damaged_files_with_their_checksums(tmp_path):
    dataset = DATASETS["cifar10"](DataConfig(tmp_path))
    assert len(dataset.missing()) == 7

    damaged = tmp_path / "cifar-10-batches-py" / "test_batch"
    damaged.parent.mkdir()
    damaged.write_bytes(b"not a batch")

    (line,) = dataset.damaged()
    assert str(damaged) in line
    assert "40351d587109b95175f43aff81a1287e" in line  # as published beside the archive
    assert hashlib.md5(b"not a batch").hexdigest() in line


def prepared(folder: Path, shape: tuple[int, ...], digits: Split) -> dict[str, Split]:
    """Save two splits of digits; networks see them in this shape."""
    splits = {"train": digits.at(np.arange(200)), "test": digits.at(np.arange(200, 300))}
    class_names = [str(digit) for digit in range(10)]

    def describe_written(written: dict[str, Split]) -> dict[str, object]:
        return {"dataset": "any"} | describe(class_names, shape, written, duplicates={})

    save_prepared(folder, splits, describe_written)
    return splits


@pytest.mark.parametrize("memory_mb", [None, 0, 1])
def test_a_split_larger_than_memory_is_a_map_of_the_same_content(digits, tmp_path, memory_mb):
    splits = prepared(tmp_path, (1, 8, 8), digits)

    for name, split in splits.items():
        loaded = load_split(tmp_path, name, memory_mb)
        assert isinstance(loaded.inputs, np.memmap) == (memory_mb == 0)  # 200 digits are 12.8 kB
        np.testing.assert_array_equal(loaded.inputs, split.inputs)
        np.testing.assert_array_equal(loaded.labels, split.labels)
        assert loaded.size is None


def test_a_loaded_split_knows_the_size_that_networks_see(digits, tmp_path):
    prepared(tmp_path, (1, 20, 20), digits)

    loaded = load_split(tmp_path, "test")

    assert loaded.size == (20, 20)
    assert loaded.at(np.arange(3)).size == (20, 20)


@pytest.mark.parametrize("array", ["inputs", "labels"])
def test_damaged_arrays_are_an_error_whether_mapped_or_not(digits, tmp_path, array):
    prepared(tmp_path, (1, 8, 8), digits)
    path = tmp_path / "train" / f"{array}.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)

    for memory_mb in (None, 0):
        with pytest.raises(InputError, match=f"{array}.npy is damaged"):
            load_split(tmp_path, "train", memory_mb)


def test_a_disk_that_is_too_small_is_an_error_before_anything_is_written(digits, tmp_path):
    class HugeSplit(Split):
        def __len__(self):
            return 10**18

    huge = HugeSplit(digits.inputs, digits.labels)

    with pytest.raises(InputError, match="GB are free"):
        save_prepared(tmp_path / "out", {"train": huge}, lambda written: {})
    assert not (tmp_path / "out").exists()
