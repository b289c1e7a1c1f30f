import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PROJECT

from prunelab.data.batches import Augmentation, Batches
from prunelab.data.datasets import DATASETS
from prunelab.data.splits import Split, channel_moments, split_off
from prunelab.errors import Refused
from prunelab.params import Normalise
from prunelab.stages.prepare import split


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_reads_as_uint8_and_splits_by_class(name):
    folder, dataset = Path(os.environ.get("PRUNELAB_DATA", PROJECT / "data/raw")), DATASETS[name]
    if dataset.missing(folder):
        pytest.skip(f"{name} is not in {folder} (set PRUNELAB_DATA to where it is)")
    assert not dataset.damaged(folder)
    published = dataset.read(folder)
    splits = split(published, test_fraction=0.25, validation_fraction=0.1, seed=0)
    assert len(published.class_names) == dataset.classes
    for part in splits.values():
        assert part.inputs.dtype == np.uint8
        assert part.inputs.shape[1:] == dataset.shape
        assert part.labels.dtype == np.int64
        shares = np.bincount(part.labels, minlength=dataset.classes) / len(part)
        whole = np.bincount(published.train.labels, minlength=dataset.classes) / len(published.train)
        np.testing.assert_allclose(shares, whole, atol=1 / len(part))
    if published.test is not None:
        assert splits["test"] is published.test


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
    with pytest.raises(Refused, match="cannot split off"):
        split_off(tiny, 0.5, seed=0)


def test_moments_are_those_of_the_pixels(digits):
    mean, std = channel_moments(digits.inputs)
    pixels = digits.inputs.astype(np.float64) / 255
    np.testing.assert_allclose(mean, [pixels.mean()], rtol=1e-12)
    np.testing.assert_allclose(std, [pixels.std()], rtol=1e-12)


def test_cifar_names_each_missing_and_each_damaged_file_with_its_checksum(tmp_path):
    dataset = DATASETS["cifar10"]
    assert len(dataset.missing(tmp_path)) == 7
    damaged = tmp_path / "cifar-10-batches-py" / "test_batch"
    damaged.parent.mkdir()
    damaged.write_bytes(b"not a batch")
    (line,) = dataset.damaged(tmp_path)
    assert str(damaged) in line
    assert "40351d587109b95175f43aff81a1287e" in line  # as published beside the archive
    assert hashlib.md5(b"not a batch").hexdigest() in line


def batches(images: np.ndarray, execution, mean=0.0, std=1 / 255) -> Batches:
    """With these moments normalisation gives back the bytes as they are."""
    normalise = Normalise(mean=[mean] * images.shape[1], std=[std] * images.shape[1])
    return Batches(Split(images, np.arange(len(images))), normalise, execution)


def test_normalisation_is_pixels_less_mean_over_deviation(digits, execution):
    few = digits.inputs[:5]
    ((images, _),) = batches(few, execution, mean=0.3, std=0.2).ordered(8)
    np.testing.assert_allclose(images.numpy(), (few / 255 - 0.3) / 0.2, rtol=1e-5, atol=1e-5)


def test_an_epoch_has_every_image_once_in_batches_of_like_size_and_is_repeatable(digits, execution):
    data = batches(digits.inputs[:101], execution)
    epochs = [list(data.shuffled(10, Augmentation(2, flip=True), seed=1, epoch=e)) for e in (0, 0, 1)]
    labels = [torch.cat([batch for _, batch in epoch]).tolist() for epoch in epochs]
    assert sorted(labels[0]) == list(range(101))
    assert {len(batch) for _, batch in epochs[0]} == {9, 10}
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(epochs[0], epochs[1], strict=True))
    assert labels[0] != labels[2]


def test_augmented_images_are_crops_of_the_padded_original_flipped_or_not(execution):
    rng = np.random.default_rng(0)
    original = rng.integers(1, 256, (40, 2, 5, 4), dtype=np.uint8)
    data = batches(original, execution)
    padded = np.pad(original, ((0, 0), (0, 0), (2, 2), (2, 2)))
    seen = set()
    for images, labels in data.shuffled(40, Augmentation(crop_padding=2, flip=True), seed=0, epoch=0):
        for image, index in zip(images.numpy().round(), labels.tolist(), strict=True):
            options = {
                (down, right, flip): padded[index, :, down : down + 5, right : right + 4][..., :: -1 if flip else 1]
                for down in range(5)
                for right in range(5)
                for flip in (False, True)
            }
            matching = [key for key, crop in options.items() if np.array_equal(crop, image)]
            assert matching
            seen.add(matching[0])
    assert len(seen) > 20  # of 50 positions, by 40 images


def test_without_augmentation_images_pass_unchanged(digits, execution):
    data = batches(digits.inputs[:20], execution)
    for images, labels in data.shuffled(7, Augmentation(), seed=0, epoch=0):
        np.testing.assert_array_equal(images.numpy().round(), digits.inputs[:20][labels.numpy()])
