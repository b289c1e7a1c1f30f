"""Vision transformers (Dosovitskiy et al. 2021) for square images of any size."""

from typing import Any

from torch import nn

from prunelab.core.errors import InputError
from prunelab.models.torchvision_nets import LARGE, is_large

PATCH_SIZE = 16  # pixels a side, for large images
SMALL_GRID = 8  # patches a side that small images are cut into, as nearly as their size allows


def vit(
    classes: int, shape: tuple[int, int, int], *, layers: int, heads: int, width: int, hidden: int
) -> nn.Module:
    """torchvision's vision transformer.

    Large images are cut into patches of 16 x 16 pixels, small ones into about 8 x 8 patches.

    Args:
        classes: number of classes
        shape: (C, H, W) of the images
        layers: number of transformer blocks
        heads: attention heads of each block
        width: width of the embedding
        hidden: hidden units of each block's feed-forward network

    Raises:
        InputError: if images are not square, or if the side of large ones is not a multiple of 16.
    """
    from torchvision.models import VisionTransformer

    channels, height, side = shape
    if height != side or (is_large(shape) and side % PATCH_SIZE):
        raise InputError(
            f"a vision transformer cannot cut images of {height} x {side} pixels into patches; "
            f"valid: square images, of a multiple of {PATCH_SIZE} pixels from {LARGE} pixels on "
            "(see data.resize)"
        )

    patch = PATCH_SIZE if is_large(shape) else patch_size(side)
    model: nn.Module = VisionTransformer(
        side, patch, layers, heads, width, hidden, num_classes=classes
    )

    projection: Any = model.conv_proj
    if channels != projection.in_channels:
        projection = nn.Conv2d(channels, width, patch, stride=patch)
        nn.init.trunc_normal_(projection.weight, std=(channels * patch**2) ** -0.5)
        nn.init.zeros_(projection.bias)
        model.conv_proj = projection

    # torchvision initialises the head with zeros. Then no gradient reaches the other layers, which
    # criteria at initialisation need.
    head: Any = model.get_submodule("heads.head")
    nn.init.trunc_normal_(head.weight, std=0.02)
    return model


def patch_size(side: int) -> int:
    """The patch size that cuts a small image of `side` pixels into as nearly 8 patches as possible.

    It divides `side`, and is at least 2 unless `side` is 1.
    """
    smallest = min(2, side)
    divisors = [size for size in range(smallest, side + 1) if side % size == 0]
    return min(divisors, key=lambda size: (abs(size - side / SMALL_GRID), size))
