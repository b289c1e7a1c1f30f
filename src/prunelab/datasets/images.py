"""Image files of any mode and size, decoded to RGB bytes."""

import os
import stat
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

# Pillow recognises a format by the file's content, not by its name. Other formats are left out
# because some of Pillow's readers start programs (EPS).
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")


def decode(path: str, side: int | None) -> np.ndarray:
    """Read an image as RGB bytes.

    Cropping the centre square before resizing gives the usual centre crop of a resized image, and
    takes no more memory for a very long image. Orientation tags are ignored, as in torchvision,
    which measured the published accuracies. Of several frames or pages the first one is read.

    Args:
        path: the file
        side: resize the centre square to this many pixels a side; None keeps the whole image

    Returns:
        uint8 [3, H, W].

    Raises:
        Exception: whatever Pillow raises if it cannot decode the file, or if the image exceeds its
            pixel limit.
    """
    from PIL import Image

    with _open(path) as image:
        rgb = _as_rgb(image)

        if side:
            width, height = rgb.size
            shorter = min(width, height)
            left, top = (width - shorter) // 2, (height - shorter) // 2
            box = (left, top, left + shorter, top + shorter)
            rgb = rgb.resize((side, side), Image.Resampling.BILINEAR, box=box)

        return np.asarray(rgb).transpose(2, 0, 1)


def size_of(path: str) -> tuple[int, int] | None:
    """The (width, height) in an image's header; None if it cannot be read."""
    try:
        with _open(path) as image:
            return image.size
    except Exception:  # damaged bytes make Pillow raise errors of every kind
        return None


def _open(path: str) -> "Image.Image":
    from PIL import Image

    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 (faster, for a million files)
        raise ValueError("not a regular file")  # reading a pipe would never end
    return Image.open(path, formats=FORMATS)


def _as_rgb(image: "Image.Image") -> "Image.Image":
    """Three bytes per pixel: alpha is dropped, grey is repeated, 16-bit grey is scaled down."""
    from PIL import Image

    if image.mode.startswith("I"):
        # Pillow's own conversion would clip every value above 255.
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 0xFFFF:
            raise ValueError(f"grey values from {grey.min()} to {grey.max()} exceed 16 bits")
        return Image.fromarray((grey >> 8).astype(np.uint8)).convert("RGB")

    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers, whose range is unknown")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")
