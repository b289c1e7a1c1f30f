"""Random crops, flips and resizing of whole batches, on the device that holds them.

Random numbers are always drawn on the CPU, so a GPU sees the same images as a CPU.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from prunelab.config.params import Interpolation
from prunelab.runtime import exact

ASPECT_RANGE = (3 / 4, 4 / 3)  # width to height of a random crop
CROP_ATTEMPTS = 10


@dataclass(frozen=True)
class Augmentation:
    """The random changes to training images, in this order: shift, flip, resized crop, others.

    Args:
        crop_padding: largest shift in pixels, after zero padding; 0: no shift
        flip: whether to mirror half of the images left to right
        crop_scale: smallest area of a resized crop, as a share of the image; 1.0: no crop
        others: names in AUGMENTATIONS
    """

    crop_padding: int = 0
    flip: bool = False
    crop_scale: float = 1.0
    others: tuple[str, ...] = ()


def random_shifts(count: int, padding: int, random: torch.Generator) -> Tensor:
    """First row and column of each crop in its padded image: int64 [2, count], 0 to 2 * padding."""
    return torch.randint(2 * padding + 1, (2, count), generator=random)


def shift(images: Tensor, padding: int, starts: Tensor) -> Tensor:
    """Zero-pad images and crop them back to their size.

    Args:
        images: shape [B, C, H, W]
        padding: pixels added on each side; 0 returns the images themselves
        starts: first row and column of each crop, as `random_shifts` draws them, shape [2, B]
    """
    if not padding:
        return images

    batch_size, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    # A view of every possible crop: [B, C, 2 * padding + 1, 2 * padding + 1, H, W].
    crops = padded.unfold(2, height, 1).unfold(3, width, 1)

    rows, columns = starts.to(images.device)
    return crops[torch.arange(batch_size, device=images.device), :, rows, columns]


def random_flips(count: int, random: torch.Generator) -> Tensor:
    """Which images to flip, each with probability 0.5: bool [count]."""
    return torch.rand(count, generator=random) < 0.5


def flip(images: Tensor, flipped: Tensor) -> Tensor:
    """Mirror the images [B, C, H, W] that the mask `flipped` [B] selects, left to right."""
    mask = flipped.to(images.device).view(-1, 1, 1, 1)
    return torch.where(mask, images.flip(-1), images)


def random_boxes(
    count: int, height: int, width: int, scale: float, random: torch.Generator
) -> Tensor:
    """Draw crop boxes for images of `height` x `width` pixels (Szegedy et al. 2015).

    The area is uniform in `scale` to 1, the aspect log-uniform in 3/4 to 4/3, the place uniform. A
    box that does not fit is drawn again, up to ten times. After that the box is the largest one of
    a valid aspect, as in torchvision.

    Returns:
        float [count, 4]: left, top, width and height, as shares of the image's sides.
    """
    area = scale + (1 - scale) * torch.rand(CROP_ATTEMPTS, count, generator=random)
    low, high = map(math.log, ASPECT_RANGE)
    aspect = torch.exp(low + (high - low) * torch.rand(CROP_ATTEMPTS, count, generator=random))

    widths = exact.sqrt(area * aspect * height / width)
    heights = exact.sqrt(area / aspect * width / height)
    sides = torch.stack([widths, heights])  # [2, attempts, count]
    fits = (sides <= 1).all(dim=0)

    first_fitting = fits.int().argmax(dim=0)
    drawn = sides[:, first_fitting, torch.arange(count)]
    largest = torch.tensor(
        [min(1.0, ASPECT_RANGE[1] * height / width), min(1.0, width / (ASPECT_RANGE[0] * height))]
    )
    box_sides = torch.where(fits.any(dim=0), drawn, largest[:, None])

    place = torch.rand(2, count, generator=random) * (1 - box_sides)
    return torch.cat([place, box_sides]).T


def crop_resized(images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Crop each image to its box and resize it, bilinearly and without antialiasing.

    Args:
        images: float [B, C, H, W]
        boxes: as `random_boxes` draws them, shape [B, 4]
        size: height and width of the result

    Returns:
        float [B, C, *size].
    """
    left, top, box_width, box_height = boxes.T.to(images.device)
    height, width = size
    x = _sample_points(left, box_width, width)
    y = _sample_points(top, box_height, height)

    shape = (len(images), height, width)
    grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=-1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _sample_points(start: Tensor, extent: Tensor, count: int) -> Tensor:
    """Where `count` pixels sample a box along a side: float [B, count], -1..1 for `grid_sample`."""
    centres = (torch.arange(count, device=start.device) + 0.5) / count
    return 2 * (start[:, None] + extent[:, None] * centres) - 1


def resize(
    images: Tensor, size: tuple[int, int], interpolation: Interpolation = "bilinear"
) -> Tensor:
    """Resize float images [B, C, H, W] of pixels 0 to 255 to [B, C, *size], with antialiasing.

    Bicubic interpolation overshoots at edges; values out of range are clipped, as Pillow clips.
    """
    if images.shape[-2:] == size:
        return images

    resized = F.interpolate(images, size, mode=interpolation, antialias=True, align_corners=False)
    if interpolation == "bicubic":
        resized.clamp_(0, 255)
    return resized
