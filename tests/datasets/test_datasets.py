import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from helpers.data import write_image_folder
from helpers.params import PROJECT

from prunelab.artifacts.prepared import load_split, save_prepared
from prunelab.core.errors import InputError
from prunelab.data import splits as splits_module
from prunelab.data.dataset import DataConfig
from prunelab.data.splits import Split, channel_moments, split_off, three_way_split
from prunelab.datasets.datasets import DATASETS
from prunelab.datasets.manifest import describe

RAW = Path(os.environ.get("PRUNELAB_DATA", PROJECT / "data/raw"))


def source_of(name: str, folder: Path) -> DataConfig:
    """Where each data set can be read from: some lie where users put them, others are made up here."""
    if name != "imagefolder":
        return DataConfig(RAW)
    write_image_folder(folder, {"cat": 20, "dog": 40})
    return DataConfig(RAW, path=str(folder), resize=6)


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_is_what_its_facts_say_and_splits_by_class(name, tmp_path):
    dataset = DATASETS[name](source_of(name, tmp_path))
    if dataset.missing():
        pytest.skip(f"{name} is not in {RAW} (set PRUNELAB_DATA to where it is)")
    assert not dataset.damaged()
    facts, published = dataset.info(), dataset.read()
    parts = three_way_split(published, test_fraction=0.25, validation_fraction=0.1, seed=0)
    assert len(published.class_names) == facts.classes
    for part in parts.values():
        assert part.dtype == (np.uint8 if len(facts.shape) == 3 else np.int64)
        assert part.shape == facts.shape
        assert part.labels.dtype == np.int64
        chunks = list(part.chunks())
        assert sum(map(len, chunks)) == len(part)
        assert {(chunk.shape[1:], chunk.dtype) for chunk in chunks} == {(part.shape, part.dtype)}
        shares = np.bincount(part.labels, minlength=facts.classes) / len(part)
        whole = np.bincount(published.train.labels, minlength=facts.classes) / len(published.train)
        np.testing.assert_allclose(shares, whole, atol=1 / len(part))
    if published.test is not None:
        assert parts["test"] is published.test


@pytest.mark.parametrize("name", ["digits", "cifar10", "cifar100"])
def test_published_images_are_resized_for_networks_but_not_in_memory(name):
    plain, resized = (DATASETS[name](DataConfig(RAW, resize=side)) for side in (None, 224))
    assert resized.info().shape == (plain.info().shape[0], 224, 224)
    assert resized.info().classes == plain.info().classes
    if not resized.missing():
        assert resized.read().train.shape == plain.info().shape


def fingerprints(part: Split) -> set[str]:
    return {hashlib.sha256(image.tobytes()).hexdigest() for image in part.inputs}


def test_splits_part_the_images_and_depend_on_the_seed_alone(digits):
    rest, taken = split_off(digits, 0.25, seed=3)
    again, other = split_off(digits, 0.25, seed=3)[1], split_off(digits, 0.25, seed=4)[1]
    assert len(rest) + len(taken) == len(digits)
    assert fingerprints(rest) | fingerprints(taken) == fingerprints(digits)
    np.testing.assert_array_equal(taken.inputs, again.inputs)
    assert fingerprints(taken) != fingerprints(other)


def test_a_split_that_would_lose_a_class_is_refused():
    tiny = Split(np.zeros((6, 1, 2, 2), np.uint8), np.array([0, 0, 0, 1, 1, 2]))
    with pytest.raises(InputError, match="cannot split off"):
        split_off(tiny, 0.5, seed=0)


def test_moments_are_those_of_the_pixels(digits):
    mean, std = channel_moments(digits.inputs)
    pixels = digits.inputs.astype(np.float64) / 255
    np.testing.assert_allclose(mean, [pixels.mean()], rtol=1e-12)
    np.testing.assert_allclose(std, [pixels.std()], rtol=1e-12)


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_moments_do_not_depend_on_the_chunks(digits, monkeypatch, rows):
    colours = np.concatenate([digits.inputs[:50], 255 - digits.inputs[:50]], axis=1)
    monkeypatch.setattr(splits_module, "CHUNK_BYTES", rows * 2 * 64)
    mean, std = channel_moments(colours)
    np.testing.assert_allclose(mean, (colours / 255).mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, (colours / 255).std(axis=(0, 2, 3)), rtol=1e-12)


def prepared(folder: Path, shape: tuple[int, ...], digits: Split) -> dict[str, Split]:
    parts = {"train": digits.at(np.arange(200)), "test": digits.at(np.arange(200, 300))}
    names = [str(digit) for digit in range(10)]
    save_prepared(
        folder, parts, lambda splits: {"dataset": "any"} | describe(names, shape, splits, duplicates={})
    )
    return parts


@pytest.mark.parametrize("memory_mb", [None, 0, 1])
def test_a_split_larger_than_memory_is_a_map_of_the_same_content(digits, tmp_path, memory_mb):
    parts = prepared(tmp_path, (1, 8, 8), digits)
    for name, part in parts.items():
        loaded = load_split(tmp_path, name, memory_mb)
        assert isinstance(loaded.inputs, np.memmap) == (memory_mb == 0)  # 200 digits are 12.8 kB
        np.testing.assert_array_equal(loaded.inputs, part.inputs)
        np.testing.assert_array_equal(loaded.labels, part.labels)
        assert loaded.size is None


def test_a_loaded_split_knows_the_size_that_networks_see(digits, tmp_path):
    prepared(tmp_path, (1, 20, 20), digits)
    assert load_split(tmp_path, "test").size == (20, 20)
    assert load_split(tmp_path, "test").at(np.arange(3)).size == (20, 20)


@pytest.mark.parametrize("array", ["inputs", "labels"])
def test_damaged_arrays_are_refused_whether_mapped_or_not(digits, tmp_path, array):
    prepared(tmp_path, (1, 8, 8), digits)
    path = tmp_path / "train" / f"{array}.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    for memory_mb in (None, 0):
        with pytest.raises(InputError, match=f"{array}.npy is damaged"):
            load_split(tmp_path, "train", memory_mb)


def test_a_disk_too_small_is_refused_before_anything_is_written(digits, tmp_path):
    class Huge(Split):
        def __len__(self):
            return 10**18

    with pytest.raises(InputError, match="GB are free"):
        save_prepared(
            tmp_path / "out", {"train": Huge(digits.inputs, digits.labels)}, lambda splits: {}
        )
    assert not (tmp_path / "out").exists()


def test_cifar_names_each_missing_and_each_damaged_file_with_its_checksum(tmp_path):
    dataset = DATASETS["cifar10"](DataConfig(tmp_path))
    assert len(dataset.missing()) == 7
    damaged = tmp_path / "cifar-10-batches-py" / "test_batch"
    damaged.parent.mkdir()
    damaged.write_bytes(b"not a batch")
    (line,) = dataset.damaged()
    assert str(damaged) in line
    assert "40351d587109b95175f43aff81a1287e" in line  # as published beside the archive
    assert hashlib.md5(b"not a batch").hexdigest() in line
