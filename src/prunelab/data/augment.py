"""Random crops, flips and resizing of whole batches, on whatever device they are.

Random numbers come from the CPU on every device, so that a GPU sees the same images as a CPU does.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

ASPECTS = (3 / 4, 4 / 3)
ATTEMPTS = 10


@dataclass(frozen=True)
class Augmentation:
    """Random crops after zero padding by `crop_padding` pixels (0: none), random left-right flips, and after those
    random resized crops of a share of the area from `crop_scale` to 1 (1.0: none).
    """

    crop_padding: int = 0
    flip: bool = False
    crop_scale: float = 1.0


def random_shifts(count: int, padding: int, random: torch.Generator) -> Tensor:
    """Where crops begin after padding, down and right: int64 [2, count]."""
    return torch.randint(2 * padding + 1, (2, count), generator=random)


def shift(images: Tensor, padding: int, starts: Tensor) -> Tensor:
    """A crop of every image [B, C, H, W] after zero padding, from `starts` [2, B] on; the size stays."""
    if not padding:
        return images
    count, _, height, width = images.shape
    down, right = starts.to(images.device)
    # Every crop of every image as a view, [B, C, 2p + 1, 2p + 1, H, W].
    windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(count, device=images.device), :, down, right]


def random_flips(count: int, random: torch.Generator) -> Tensor:
    """Which images to flip, half of them: bool [count]."""
    return torch.rand(count, generator=random) < 0.5


def flip(images: Tensor, flipped: Tensor) -> Tensor:
    """The images [B, C, H, W] that `flipped` [B] marks left to right, the others as they are."""
    return torch.where(flipped.to(images.device).view(-1, 1, 1, 1), images.flip(-1), images)


def random_boxes(
    count: int, height: int, width: int, scale: float, random: torch.Generator
) -> Tensor:
    """Boxes within an image, float [count, 4]: left, top, width, height, as shares of the image's sides.

    The share of the area is uniform in `scale` to 1, the aspect log-uniform in 3/4 to 4/3, the place uniform
    (Szegedy et al. 2015); shapes that do not fit are drawn again, up to ten times, and then the largest part of
    the image of a valid aspect is taken, as torchvision does.
    """
    area = scale + (1 - scale) * torch.rand(ATTEMPTS, count, generator=random)
    low, high = map(math.log, ASPECTS)
    aspect = torch.exp(low + (high - low) * torch.rand(ATTEMPTS, count, generator=random))
    sides = torch.stack(
        [(area * aspect * height / width).sqrt(), (area / aspect * width / height).sqrt()]
    )
    fits = (sides <= 1).all(dim=0)
    first = fits.int().argmax(dim=0)  # the first of those that fit
    largest = torch.tensor(
        [min(1.0, ASPECTS[1] * height / width), min(1.0, width / (ASPECTS[0] * height))]
    )
    chosen = torch.where(fits.any(dim=0), sides[:, first, torch.arange(count)], largest[:, None])
    place = torch.rand(2, count, generator=random) * (1 - chosen)
    return torch.cat([place, chosen]).T


def crop_resized(images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """What lies in each image's box, float [B, C, *size], interpolated bilinearly (without antialiasing)."""
    left, top, wide, high = boxes.T.to(images.device)
    x, y = (
        2 * (start[:, None] + extent[:, None] * _centres(count, images.device)) - 1
        for start, extent, count in ((left, wide, size[1]), (top, high, size[0]))
    )
    shape = (len(images), *size)
    grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=-1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _centres(count: int, device: torch.device) -> Tensor:
    """The centres of `count` pixels along a side, as shares of it."""
    return (torch.arange(count, device=device) + 0.5) / count


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Float images [B, C, H, W] as [B, C, *size], bilinear with antialiasing."""
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
