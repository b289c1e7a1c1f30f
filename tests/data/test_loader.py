"""Batches: order, augmentation, resizing, streaming."""

import math

import numpy as np
import pytest
import torch
from helpers.data import EVERYTHING, mapped
from scipy import stats
from torchvision.transforms import functional as tv

from prunelab.config.params import Normalise
from prunelab.core.errors import InputError
from prunelab.data.augment import (
    ASPECT_RANGE,
    Augmentation,
    crop_resized,
    flip,
    random_boxes,
    random_flips,
    resize,
)
from prunelab.data.loader import BatchLoader
from prunelab.data.splits import Split
from prunelab.runtime.device import generator


def batches(images: np.ndarray, execution, mean=0.0, std=1 / 255) -> BatchLoader:
    """With these moments normalisation gives back the bytes as they are."""
    normalise = Normalise(mean=[mean] * images.shape[1], std=[std] * images.shape[1])
    return BatchLoader(Split(images, np.arange(len(images))), normalise, execution)


def test_normalisation_is_pixels_less_mean_over_deviation(digits, execution):
    few = digits.inputs[:5]
    ((images, _),) = batches(few, execution, mean=0.3, std=0.2).ordered(8)
    np.testing.assert_allclose(images.numpy(), (few / 255 - 0.3) / 0.2, rtol=1e-5, atol=1e-5)


def test_an_epoch_has_every_image_once_in_batches_of_like_size_and_is_repeatable(digits, execution):
    data = batches(digits.inputs[:101], execution)
    epochs = [
        list(data.shuffled(10, Augmentation(2, flip=True), seed=1, epoch=e)) for e in (0, 0, 1)
    ]
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
    for images, labels in data.shuffled(
        40, Augmentation(crop_padding=2, flip=True), seed=0, epoch=0
    ):
        for image, index in zip(images.numpy().round(), labels.tolist(), strict=True):
            options = {
                (down, right, flip): padded[index, :, down : down + 5, right : right + 4][
                    ..., :: -1 if flip else 1
                ]
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


def same(one, other) -> bool:
    pairs = list(zip(one, other, strict=True))
    return len(pairs) > 1 and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in pairs
    )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["images", "resized", "texts"])
def test_streamed_batches_are_those_of_memory_to_the_bit(
    digits, normalise, execution, tmp_path, kind, workers
):
    split = digits.at(np.arange(101))
    if kind == "resized":
        split = Split(split.inputs, split.labels, size=(12, 12))
    if kind == "texts":
        split, normalise = Split(split.inputs.reshape(101, 64).astype(np.int64), split.labels), None
    stream = mapped(split, tmp_path)
    resident = BatchLoader(split, normalise, execution)
    streamed = BatchLoader(stream, normalise, execution, workers=workers)
    before = torch.get_rng_state()
    assert same(streamed.ordered(16), resident.ordered(16))
    for epoch in (0, 1):
        order = {"seed": 5, "epoch": epoch}
        assert same(
            streamed.shuffled(16, EVERYTHING, **order), resident.shuffled(16, EVERYTHING, **order)
        )
    assert torch.equal(torch.get_rng_state(), before)  # which dropout draws from


def test_a_slice_of_a_map_is_the_slice_and_not_the_file(digits, normalise, execution, tmp_path):
    stream = mapped(digits, tmp_path)
    part = Split(stream.inputs[40:60], stream.labels[40:60])
    expected = BatchLoader(digits.at(np.arange(40, 60)), normalise, execution)
    assert same(BatchLoader(part, normalise, execution).ordered(10), expected.ordered(10))


def test_images_without_moments_are_refused(digits, execution):
    with pytest.raises(InputError, match="need the mean and the standard deviation"):
        BatchLoader(digits, None, execution)


def test_texts_are_cut_to_the_longest_of_their_batch(execution):
    lengths = np.array([3, 1, 5, 2, 4, 0])
    ids = np.where(np.arange(8) < lengths[:, None], np.arange(1, 9), 0)
    data = BatchLoader(Split(ids, np.arange(6)), None, execution)
    passes = [
        data.ordered(2),
        data.shuffled(2, Augmentation(crop_padding=3, flip=True), seed=0, epoch=0),
    ]
    for texts, labels in (batch for one in passes for batch in one):
        assert texts.shape == (2, max(1, lengths[labels].max()))
        np.testing.assert_array_equal(texts, ids[labels][:, : texts.shape[1]])


@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 60), (90, 30)])
@pytest.mark.parametrize("scale", [0.08, 0.5, 0.95])
def test_boxes_lie_inside_and_have_the_area_and_aspect_asked_for(height, width, scale):
    left, top, wide, high = random_boxes(4000, height, width, scale, generator("boxes")).double().T
    assert (torch.stack([left, top]) >= 0).all()
    assert (left + wide).max() <= 1 + 1e-6
    assert (top + high).max() <= 1 + 1e-6
    aspect = wide * width / (high * height)
    assert ASPECT_RANGE[0] - 1e-5 < aspect.min() <= aspect.max() < ASPECT_RANGE[1] + 1e-5
    fitted = min(1, ASPECT_RANGE[1] * height / width) * min(
        1, width / height / ASPECT_RANGE[0]
    )  # largest share of valid aspect
    area = wide * high
    assert area.min() >= min(scale, fitted) - 1e-5
    assert area.max() <= 1 + 1e-6


def test_area_is_uniform_aspect_log_uniform_and_place_uniform_where_all_fits():
    boxes = random_boxes(4000, 64, 64, 0.1, generator("boxes", 1)).double().numpy()
    small = boxes[
        boxes[:, 2] * boxes[:, 3] < 0.5
    ]  # whatever the aspect, such a box fits: nothing was drawn again
    left, top, wide, high = small.T
    area, aspect, place = (
        wide * high,
        np.log(wide / high),
        np.stack([left / (1 - wide), top / (1 - high)]),
    )
    assert len(small) > 1000
    assert stats.kstest((area - 0.1) / 0.4, "uniform").pvalue > 1e-3
    low, high_end = map(math.log, ASPECT_RANGE)
    assert stats.kstest((aspect - low) / (high_end - low), "uniform").pvalue > 1e-3
    assert all(stats.kstest(shares, "uniform").pvalue > 1e-3 for shares in place)


def test_a_crop_of_whole_pixels_is_what_torchvision_crops_and_enlarges():
    images = torch.rand(3, 2, 12, 16, generator=generator("images"))
    pixels = [(0, 0, 16, 12), (3, 2, 8, 6), (9, 5, 4, 7)]  # left, top, width, height
    boxes = torch.tensor([[x / 16, y / 12, w / 16, h / 12] for x, y, w, h in pixels])
    cropped = crop_resized(images, boxes, (24, 32))
    for image, result, (x, y, w, h) in zip(images, cropped, pixels, strict=True):
        expected = tv.resized_crop(image, y, x, h, w, [24, 32], antialias=False)
        inside = (
            slice(None),
            slice(4, -4),
            slice(6, -6),
        )  # at its edge, the crop alone knows no neighbouring pixels
        torch.testing.assert_close(result[inside], expected[inside], rtol=1e-4, atol=1e-5)


def test_resizing_keeps_the_mean_of_what_it_averages_and_leaves_the_same_size_alone():
    images = torch.rand(4, 3, 16, 16, generator=generator("images"))
    assert resize(images, (16, 16)) is images
    constant = torch.full((1, 3, 16, 16), 0.25)
    for size in ((8, 8), (40, 24)):
        torch.testing.assert_close(resize(constant, size), torch.full((1, 3, *size), 0.25))
        expected = tv.resize(images, list(size), antialias=True)
        torch.testing.assert_close(resize(images, size), expected)


@pytest.mark.parametrize("size", [(12, 12), (5, 5), (9, 13)])
def test_batches_have_the_size_that_networks_see(digits, execution, normalise, size):
    data = BatchLoader(Split(digits.inputs[:30], digits.labels[:30], size), normalise, execution)
    ((plain, _),) = data.ordered(30)
    pixels = (digits.inputs[:30] / 255 - normalise.mean[0]) / normalise.std[0]
    expected = tv.resize(torch.tensor(pixels, dtype=torch.float32), list(size), antialias=True)
    torch.testing.assert_close(plain.contiguous(), expected, rtol=1e-4, atol=1e-5)
    for images, _ in data.shuffled(8, EVERYTHING, seed=0, epoch=0):
        assert images.shape[1:] == (1, *size)
        assert images.is_contiguous(memory_format=execution.memory_format)


def test_crops_stay_within_the_range_of_the_image_and_differ(digits, execution):
    few = np.repeat(digits.inputs[:1], 50, axis=0)
    ((images, _),) = batches(few, execution).shuffled(
        50, Augmentation(crop_scale=0.2), seed=0, epoch=0
    )
    assert few.min() - 1e-3 <= images.min() <= images.max() <= few.max() + 1e-3
    assert len({image.numpy().tobytes() for image in images}) == 50


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_about_half_of_the_images_are_flipped(seed):
    images = torch.arange(2.0).expand(2000, 1, 1, 2)
    flipped = flip(images, random_flips(2000, generator("flips", seed)))[:, 0, 0, 0].sum().item()
    assert stats.binomtest(int(flipped), 2000, 0.5).pvalue > 1e-3
