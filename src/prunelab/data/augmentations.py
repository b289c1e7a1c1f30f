"""AUGMENTATIONS: random changes to training images beside shift, flip and resized crop, by name.

An augmentation takes images, float32 [B, C, H, W] of pixels 0 to 1, and random numbers, float32
[B, DRAWS], uniform from 0 to below 1, which are drawn for each image. It returns images of the same
shape and draws nothing itself. So an image does not depend on the batch, on the number of processes
or on whether a training was interrupted.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from prunelab.core.registry import Table

if TYPE_CHECKING:
    from torch import Tensor

DRAWS = 16  # random numbers of an image for each augmentation

AugmentationFunction = Callable[["Tensor", "Tensor"], "Tensor"]


def augment(images: "Tensor", random: "Tensor", names: Sequence[str]) -> "Tensor":
    """Change images by several augmentations, one after another.

    Args:
        images: float32 [B, C, H, W], pixels 0 to 1
        random: float32 [B, len(names), DRAWS], uniform from 0 to below 1
        names: those of AUGMENTATIONS

    Raises:
        InputError: if one of them returns something else than such images.
    """
    for number, name in enumerate(names):
        changed = AUGMENTATIONS[name](images, random[:, number])

        same_kind = getattr(changed, "dtype", None) == images.dtype
        if not same_kind or changed.shape != images.shape:
            shape = tuple(getattr(changed, "shape", ()))
            AUGMENTATIONS.refuse(
                name,
                f"returns a {type(changed).__name__} of shape {shape}; return float32 images of "
                f"shape {tuple(images.shape)}",
            )
        images = changed

    return images


def brightness(images: "Tensor", random: "Tensor") -> "Tensor":
    """Multiply each image by a factor of 0.6 to 1.4 (Krizhevsky et al. 2012 vary intensities)."""
    factors = 0.6 + 0.8 * random[:, 0]
    return (images * factors.view(-1, 1, 1, 1)).clamp(0, 1)


def erase(images: "Tensor", random: "Tensor") -> "Tensor":
    """Blacken a square of half the sides in half of the images (DeVries & Taylor 2017, Cutout)."""
    import torch  # names of the table are read where torch is not needed

    height, width = images.shape[2:]
    top = random[:, 1] * height / 2
    left = random[:, 2] * width / 2
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)

    in_rows = (rows >= top[:, None]) & (rows < top[:, None] + height / 2)
    in_columns = (columns >= left[:, None]) & (columns < left[:, None] + width / 2)
    chosen = (random[:, 0] < 0.5).view(-1, 1, 1)
    erased = in_rows[:, :, None] & in_columns[:, None, :] & chosen
    return images.masked_fill(erased[:, None], 0)


_ENTRIES: dict[str, AugmentationFunction] = {"brightness": brightness, "erase": erase}
AUGMENTATIONS = Table("augmentation", _ENTRIES, called_with=("images", "random"))
