"""Random crops, flips and resizing, compared with their distributions and with torchvision."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torchvision.transforms import functional as tv

from prunelab.data.augment import (
    ASPECT_RANGE,
    crop_resized,
    flip,
    random_boxes,
    random_flips,
    resize,
)
from prunelab.runtime.device import generator


@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 60), (90, 30)])
@pytest.mark.parametrize("scale", [0.08, 0.5, 0.95])
def test_boxes_lie_inside_with_a_valid_area_and_aspect(height, width, scale):
    boxes = random_boxes(4000, height, width, scale, generator("boxes"))

    left, top, box_width, box_height = boxes.double().T
    assert (torch.stack([left, top]) >= 0).all()
    assert (left + box_width).max() <= 1 + 1e-6
    assert (top + box_height).max() <= 1 + 1e-6

    aspect = box_width * width / (box_height * height)
    assert ASPECT_RANGE[0] - 1e-5 < aspect.min() <= aspect.max() < ASPECT_RANGE[1] + 1e-5

    widest = min(1, ASPECT_RANGE[1] * height / width)
    highest = min(1, width / height / ASPECT_RANGE[0])
    largest_area = widest * highest  # of a valid aspect
    area = box_width * box_height
    assert area.min() >= min(scale, largest_area) - 1e-5
    assert area.max() <= 1 + 1e-6


def test_area_and_place_are_uniform_and_aspect_is_log_uniform():
    boxes = random_boxes(4000, 64, 64, 0.1, generator("boxes", 1)).double().numpy()

    # A box of less than half the area fits whatever its aspect, so none of these was drawn again.
    small = boxes[boxes[:, 2] * boxes[:, 3] < 0.5]
    assert len(small) > 1000

    left, top, width, height = small.T
    area = (width * height - 0.1) / 0.4
    low, high = map(math.log, ASPECT_RANGE)
    aspect = (np.log(width / height) - low) / (high - low)
    for share in (area, aspect, left / (1 - width), top / (1 - height)):
        assert stats.kstest(share, "uniform").pvalue > 1e-3


def test_crops_of_whole_pixels_equal_those_of_torchvision():
    images = torch.rand(3, 2, 12, 16, generator=generator("images"))
    pixel_boxes = [(0, 0, 16, 12), (3, 2, 8, 6), (9, 5, 4, 7)]  # left, top, width, height
    boxes = torch.tensor([[x / 16, y / 12, w / 16, h / 12] for x, y, w, h in pixel_boxes])

    cropped = crop_resized(images, boxes, (24, 32))

    # At its edge torchvision's crop does not know the neighbouring pixels.
    inside = slice(None), slice(4, -4), slice(6, -6)
    for image, result, (x, y, w, h) in zip(images, cropped, pixel_boxes, strict=True):
        expected = tv.resized_crop(image, y, x, h, w, [24, 32], antialias=False)
        torch.testing.assert_close(result[inside], expected[inside], rtol=1e-4, atol=1e-5)


def test_resize_to_the_same_size_returns_the_images_themselves():
    images = torch.rand(4, 3, 16, 16, generator=generator("images"))

    assert resize(images, (16, 16)) is images


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(7, 9), (33, 41)])
def test_pixels_are_resized_as_pillow_resizes_them(size, interpolation):
    # No value overshoots, as Pillow clips after each of two directions.
    pixels = np.random.default_rng(0).integers(64, 192, (17, 23), np.uint8)
    images = torch.tensor(pixels, dtype=torch.float32)[None, None]

    resized = resize(images, size, interpolation)

    method = Image.Resampling[interpolation.upper()]
    expected = np.asarray(Image.fromarray(pixels).resize(size[::-1], method))
    # Pillow rounds then too.
    np.testing.assert_allclose(resized[0, 0].numpy(), expected, atol=1.01)


def test_bicubic_pixels_stay_in_the_range_of_pixels():
    edges = torch.zeros(1, 1, 16, 16)
    edges[..., 8:] = 255.0

    resized = resize(edges, (40, 40), "bicubic")

    assert (resized.min(), resized.max()) == (0, 255)
    assert not torch.equal(resized, resize(edges, (40, 40)))


@pytest.mark.parametrize("size", [(8, 8), (40, 24)])
def test_resize_keeps_constants_and_equals_torchvision(size):
    images = torch.rand(4, 3, 16, 16, generator=generator("images"))
    constant = torch.full((1, 3, 16, 16), 0.25)

    torch.testing.assert_close(resize(constant, size), torch.full((1, 3, *size), 0.25))
    expected = tv.resize(images, list(size), antialias=True)
    torch.testing.assert_close(resize(images, size), expected)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_about_half_of_the_images_are_flipped(seed):
    images = torch.arange(2.0).expand(2000, 1, 1, 2)

    flipped = flip(images, random_flips(2000, generator("flips", seed)))

    count = int(flipped[:, 0, 0, 0].sum().item())
    assert stats.binomtest(count, 2000, 0.5).pvalue > 1e-3
