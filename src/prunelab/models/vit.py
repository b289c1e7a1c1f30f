"""Vision transformers (Dosovitskiy et al. 2021) for square images of any size."""

from functools import partial

from torch import nn

from prunelab.core.errors import InputError
from prunelab.models.torchvision_nets import LARGE, is_large

PATCH = 16  # pixels a side, of large images
PATCHES = 8  # a side, that small images are cut into, as near as their size allows


def vit(
    classes: int, shape: tuple[int, int, int], *, layers: int, heads: int, width: int, hidden: int
) -> nn.Module:
    """torchvision's vision transformer; small images are cut into about 8 x 8 patches, large ones into 16 x 16 pixels.

    Raises:
        InputError: if the images are not square, or large ones cannot be cut into patches of 16 pixels.
    """
    from torchvision.models import VisionTransformer

    channels, side, breadth = shape
    if side != breadth or (is_large(shape) and side % PATCH):
        raise InputError(
            f"a vision transformer cannot cut images of {side} x {breadth} pixels into patches; "
            f"valid: square ones, from {LARGE} pixels on a multiple of {PATCH} (see data.resize)"
        )
    patch = PATCH if is_large(shape) else patch_size(side)
    model = VisionTransformer(side, patch, layers, heads, width, hidden, num_classes=classes)
    if channels != model.conv_proj.in_channels:
        model.conv_proj = nn.Conv2d(channels, width, patch, stride=patch)
        nn.init.trunc_normal_(model.conv_proj.weight, std=(channels * patch**2) ** -0.5)
        nn.init.zeros_(model.conv_proj.bias)
    # torchvision's head begins at zero, which lets no gradient through to what methods at initialisation judge.
    nn.init.trunc_normal_(model.heads.head.weight, std=0.02)
    return model


def patch_size(side: int) -> int:
    """The divisor of a small image's side that cuts it into as nearly 8 patches as possible, from 2 pixels on."""
    divisors = [size for size in range(1, side + 1) if side % size == 0 and (size > 1 or side == 1)]
    return min(divisors, key=lambda size: (abs(size - side / PATCHES), size))


def embedding_stream(name: str) -> bool:
    """Whether a layer writes the embedding, which keeps its width; the hidden layers of the blocks are free.

    Layer norm takes the mean over the embedding, and attention cuts it into heads: without one of its channels all
    others change, so that removing one is not the same as zeroing it.
    """
    return name == "conv_proj" or name.endswith((".self_attention", ".out_proj", ".mlp.3"))


vit_b_16 = partial(vit, layers=12, heads=12, width=768, hidden=3072)
vit_tiny = partial(vit, layers=12, heads=3, width=192, hidden=768)  # Touvron et al. 2021, table 1
