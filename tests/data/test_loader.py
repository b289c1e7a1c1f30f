"""Batches of the loader: order, augmentation, resizing, streaming."""

import numpy as np
import pytest
import torch
from helpers.data import EVERYTHING, mapped
from torchvision.transforms import functional as tv

from prunelab.config.params import Normalise
from prunelab.core.errors import InputError
from prunelab.data.augment import Augmentation
from prunelab.data.loader import BatchLoader
from prunelab.data.splits import Split


def image_loader(images: np.ndarray, execution, mean=0.0, std=1 / 255) -> BatchLoader:
    """With the default moments, normalised images are the bytes again."""
    normalise = Normalise(mean=[mean] * images.shape[1], std=[std] * images.shape[1])
    return BatchLoader(Split(images, np.arange(len(images))), normalise, execution)


def test_normalisation_subtracts_the_mean_and_divides_by_the_deviation(digits, execution):
    pixels = digits.inputs[:5]

    ((images, _),) = image_loader(pixels, execution, mean=0.3, std=0.2).ordered(8)

    expected = (pixels / 255 - 0.3) / 0.2
    np.testing.assert_allclose(images.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_an_epoch_has_each_image_once_and_is_repeatable(digits, execution):
    loader = image_loader(digits.inputs[:101], execution)
    augmentation = Augmentation(crop_padding=2, flip=True)

    first, again, second = (
        list(loader.shuffled(10, augmentation, seed=1, epoch=epoch)) for epoch in (0, 0, 1)
    )

    first_labels = torch.cat([labels for _, labels in first]).tolist()
    second_labels = torch.cat([labels for _, labels in second]).tolist()
    assert sorted(first_labels) == list(range(101))
    assert first_labels != second_labels
    assert same_batches(first, again)


def test_batch_sizes_differ_by_one_example_at_most(digits, execution):
    loader = image_loader(digits.inputs[:101], execution)

    batches = list(loader.shuffled(10, Augmentation(), seed=1, epoch=0))

    assert {len(labels) for _, labels in batches} == {9, 10}


def crops(padded: np.ndarray, height: int, width: int) -> dict[tuple[int, int, bool], np.ndarray]:
    """Every crop of a padded image [C, H, W], flipped or not, by its place."""
    found = {}
    for top in range(padded.shape[1] - height + 1):
        for left in range(padded.shape[2] - width + 1):
            crop = padded[:, top : top + height, left : left + width]
            found[top, left, False] = crop
            found[top, left, True] = crop[..., ::-1]
    return found


def test_augmented_images_are_crops_of_the_padded_image_or_their_mirror(execution):
    originals = np.random.default_rng(0).integers(1, 256, (40, 2, 5, 4), dtype=np.uint8)
    padded = np.pad(originals, ((0, 0), (0, 0), (2, 2), (2, 2)))
    loader = image_loader(originals, execution)
    augmentation = Augmentation(crop_padding=2, flip=True)

    ((images, labels),) = loader.shuffled(40, augmentation, seed=0, epoch=0)

    places = set()
    for image, index in zip(images.numpy().round(), labels.tolist(), strict=True):
        options = crops(padded[index], height=5, width=4)
        matching = [place for place, crop in options.items() if np.array_equal(crop, image)]
        assert matching
        places.add(matching[0])
    assert len(places) > 20  # of 50, by 40 images


def test_images_pass_unchanged_without_augmentation(digits, execution):
    originals = digits.inputs[:20]
    loader = image_loader(originals, execution)

    for images, labels in loader.shuffled(7, Augmentation(), seed=0, epoch=0):
        np.testing.assert_array_equal(images.numpy().round(), originals[labels.numpy()])


def same_batches(first, second) -> bool:
    """Whether two passes are equal to the bit, over more than one batch."""
    pairs = list(zip(first, second, strict=True))
    return len(pairs) > 1 and all(
        torch.equal(first_inputs, second_inputs) and torch.equal(first_labels, second_labels)
        for (first_inputs, first_labels), (second_inputs, second_labels) in pairs
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["images", "resized", "texts"])
def test_streamed_batches_equal_those_in_memory_to_the_bit(
    digits, normalise, execution, tmp_path, kind, workers
):
    split = digits.at(np.arange(101))
    if kind == "resized":
        split = Split(split.inputs, split.labels, size=(12, 12))
    if kind == "texts":
        ids = split.inputs.reshape(101, 64).astype(np.int64)
        split, normalise = Split(ids, split.labels), None
    in_memory = BatchLoader(split, normalise, execution)
    streamed = BatchLoader(mapped(split, tmp_path), normalise, execution, workers=workers)
    global_state = torch.get_rng_state()

    assert same_batches(streamed.ordered(16), in_memory.ordered(16))
    for epoch in (0, 1):
        order = {"seed": 5, "epoch": epoch}
        assert same_batches(
            streamed.shuffled(16, EVERYTHING, **order), in_memory.shuffled(16, EVERYTHING, **order)
        )

    assert torch.equal(torch.get_rng_state(), global_state)  # dropout draws from it


def test_a_slice_of_a_memory_map_is_not_the_whole_file(digits, normalise, execution, tmp_path):
    whole = mapped(digits, tmp_path)
    part = Split(whole.inputs[40:60], whole.labels[40:60])

    loader = BatchLoader(part, normalise, execution)

    expected = BatchLoader(digits.at(np.arange(40, 60)), normalise, execution)
    assert same_batches(loader.ordered(10), expected.ordered(10))


def test_images_without_moments_are_an_error(digits, execution):
    with pytest.raises(InputError, match="need the mean and the standard deviation"):
        BatchLoader(digits, None, execution)


def test_texts_are_cut_to_the_longest_of_their_batch(execution):
    lengths = np.array([3, 1, 5, 2, 4, 0])
    ids = np.where(np.arange(8) < lengths[:, None], np.arange(1, 9), 0)
    loader = BatchLoader(Split(ids, np.arange(6)), None, execution)
    augmentation = Augmentation(crop_padding=3, flip=True)

    batches = [*loader.ordered(2), *loader.shuffled(2, augmentation, seed=0, epoch=0)]

    for texts, labels in batches:
        assert texts.shape == (2, max(1, lengths[labels].max()))
        np.testing.assert_array_equal(texts, ids[labels][:, : texts.shape[1]])


@pytest.mark.parametrize("size", [(12, 12), (5, 5), (9, 13)])
def test_batches_are_resized_to_the_size_of_the_split(digits, execution, normalise, size):
    split = Split(digits.inputs[:30], digits.labels[:30], size)
    loader = BatchLoader(split, normalise, execution)

    ((plain, _),) = loader.ordered(30)

    pixels = (split.inputs / 255 - normalise.mean[0]) / normalise.std[0]
    expected = tv.resize(torch.tensor(pixels, dtype=torch.float32), list(size), antialias=True)
    torch.testing.assert_close(plain.contiguous(), expected, rtol=1e-4, atol=1e-5)
    for images, _ in loader.shuffled(8, EVERYTHING, seed=0, epoch=0):
        assert images.shape[1:] == (1, *size)
        assert images.is_contiguous(memory_format=execution.memory_format)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_training_and_evaluation_resize_images_alike(digits, execution, normalise, interpolation):
    """A crop of the whole image is the image, so only the order of the examples differs."""
    split = Split(digits.inputs[:30], digits.labels[:30], (20, 20), interpolation)
    loader = BatchLoader(split, normalise, execution)
    (raw,) = loader.raw_shuffled(30, Augmentation(crop_scale=0.5), seed=0, epoch=0)
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(30, 4)

    cropped = loader.augmented(raw._replace(boxes=whole), Augmentation(crop_scale=0.5))

    expected = loader.plain(raw)
    tolerance = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(cropped, expected, **tolerance)
    bilinear = BatchLoader(split.at(np.arange(30)), normalise, execution)
    torch.testing.assert_close(bilinear.plain(raw), expected, rtol=0, atol=0)


def test_resized_crops_stay_in_the_range_of_the_image_and_differ(digits, execution):
    copies = np.repeat(digits.inputs[:1], 50, axis=0)
    loader = image_loader(copies, execution)

    ((images, _),) = loader.shuffled(50, Augmentation(crop_scale=0.2), seed=0, epoch=0)

    assert copies.min() - 1e-3 <= images.min() <= images.max() <= copies.max() + 1e-3
    assert len({image.numpy().tobytes() for image in images}) == 50
