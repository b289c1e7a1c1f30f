"""Image files of any mode and size as RGB bytes."""

import os
import stat
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

# Told by content, whatever the file is called. No others: some of Pillow's readers start programs (EPS).
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")


def decode(path: str, side: int | None) -> np.ndarray:
    """Read an image as uint8 [3, H, W]; with `side`, its centre square, resized to so many pixels.

    The centre square of an image resized so that its shorter side fits is what networks are commonly shown; cropping
    first gives the same, and takes no more memory for a very long image. Orientation tags are not followed, as in
    torchvision, by which published accuracies were measured; of several frames or pages the first counts. Raises
    whatever Pillow does for a file that cannot be decoded, and for one beyond its pixel limit.
    """
    from PIL import Image

    with _open(path) as image:
        rgb = _as_rgb(image)
        if side:
            short = min(rgb.size)
            left, top = ((length - short) // 2 for length in rgb.size)
            box = (left, top, left + short, top + short)
            rgb = rgb.resize((side, side), Image.Resampling.BILINEAR, box=box)
        return np.asarray(rgb).transpose(2, 0, 1)


def size_of(path: str) -> tuple[int, int] | None:
    """The (width, height) that an image's header tells; None if it cannot be read."""
    try:
        with _open(path) as image:
            return image.size
    except Exception:  # as in decoding: whatever damaged bytes lead to
        return None


def _open(path: str) -> "Image.Image":
    from PIL import Image

    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 (a million of them)
        raise ValueError("no regular file")  # a pipe would never end
    return Image.open(path, formats=FORMATS)


def _as_rgb(image: "Image.Image") -> "Image.Image":
    """Three bytes per pixel: alpha is dropped, grey repeated, 16-bit grey scaled down."""
    from PIL import Image

    if image.mode.startswith("I"):  # Pillow's own conversion cuts everything above 255 off
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 0xFFFF:
            raise ValueError(f"grey values from {grey.min()} to {grey.max()} are beyond 16 bits")
        return Image.fromarray((grey >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers, whose range is not known")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")
