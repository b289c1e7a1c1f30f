"""Image files of any mode and size, decoded to RGB bytes."""

import os
import re
import stat
import threading
from typing import TYPE_CHECKING

import numpy as np

from prunelab.config.params import Interpolation

if TYPE_CHECKING:
    from PIL import Image

    from prunelab.datasets.bit_depth import BitDepth, Kind

# Pillow recognises a format by the file's content, not by its name. Other formats are left out
# because some of Pillow's readers start programs (EPS).
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")


KEPT_BITS = 8  # of each value
# The end of what Pillow calls the layout of 16-bit colour. (BGR;16 has 16 bits in all.)
_DEEP_LAYOUT = re.compile(r";16[BLN]$")


# The EXIF tag of a camera's orientation, and by its value how Pillow turns the image upright.
# The other values are the upright image, or none.
_ORIENTATION = 0x0112
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
_SIDEWAYS = (5, 6, 7, 8)  # these turns exchange width and height


class Orientation:
    """Turns images as their EXIF orientation says, and counts them. Threads may share it."""

    def __init__(self) -> None:
        self.turned = 0
        self._counting = threading.Lock()

    def upright(self, image: "Image.Image") -> "Image.Image":
        """The image as the camera was held."""
        from PIL import Image

        # Pillow itself turns a TIFF as soon as its pixels are read, and removes the tag.
        tag = orientation_tag(image)
        if tag not in _TURNS:
            return image
        with self._counting:
            self.turned += 1

        image.load()
        if orientation_tag(image) == tag:
            return image.transpose(Image.Transpose[_TURNS[tag]])
        return image


def orientation_tag(image: "Image.Image") -> int:
    """The value of an image's EXIF orientation; 1, which is upright, if there is none."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged tags make Pillow raise errors of every kind; the pixels may be fine
        return 1


def decode(
    path: str,
    side: int | None,
    depth: "BitDepth | None" = None,
    orientation: Orientation | None = None,
    interpolation: Interpolation = "bilinear",
) -> np.ndarray:
    """Read an image as RGB bytes.

    Cropping the centre square before resizing gives the usual centre crop of a resized image, and
    takes no more memory for a very long image. Of several frames or pages the first one is read.

    Args:
        path: the file
        side: resize the centre square to this many pixels a side; None keeps the whole image
        depth: the bits of 16-bit grey that are scaled to 8; None scales all 16
        orientation: turns the image as its EXIF tag says; None ignores the tag, as torchvision
            does, which measured the published accuracies
        interpolation: how the image is resized

    Returns:
        uint8 [3, H, W].

    Raises:
        Exception: whatever Pillow raises if it cannot decode the file, or if the image exceeds its
            pixel limit.
    """
    size = None
    if side:
        size = (side, side)
    return decode_to(path, size, depth, orientation, interpolation)


def decode_to(
    path: str,
    size: tuple[int, int] | None,
    depth: "BitDepth | None" = None,
    orientation: Orientation | None = None,
    interpolation: Interpolation = "bilinear",
) -> np.ndarray:
    """Read an image as `decode` does, for inputs of any height and width.

    Args:
        path: the file
        size: height and width; the largest centre part of that shape is resized to it. None keeps
            the whole image
        depth, orientation, interpolation: as for `decode`

    Returns:
        uint8 [3, H, W].

    Raises:
        Exception: as `decode` does.
    """
    from PIL import Image

    with _open(path) as image:
        if depth and _is_deep_colour(image):  # known only until the pixels are read
            depth.used("colour")  # is reported only
        upright = orientation.upright(image) if orientation else image
        rgb = _as_rgb(upright, depth)

        if size:
            height, width = size
            box = centre_box(rgb.size, size)
            filter_ = Image.Resampling[interpolation.upper()]
            rgb = rgb.resize((width, height), filter_, box=box)

        return np.asarray(rgb).transpose(2, 0, 1)


def decoding_problem(error: Exception, path: str) -> str:
    """What `decode` raised, in one line that does not repeat the path."""
    message = " ".join(str(error).replace(repr(path), "").split())
    return f"{type(error).__name__}: {message}"


def centre_box(image: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The largest centre part of an image with the shape of `size`: left, top, right, bottom.

    `image` is a width and a height, `size` a height and a width.
    """
    (image_width, image_height), (height, width) = image, size
    box_width, box_height = image_width, image_height
    if image_width * height > image_height * width:
        box_width = max(1, image_height * width // height)
    else:
        box_height = max(1, image_width * height // width)

    left, top = (image_width - box_width) // 2, (image_height - box_height) // 2
    return left, top, left + box_width, top + box_height


def size_of(path: str, *, turn: bool = False) -> tuple[int, int] | None:
    """The (width, height) in an image's header; None if it cannot be read.

    With `turn`, that of the image as its EXIF orientation says.
    """
    try:
        with _open(path) as image:
            width, height = image.size
            # Pillow gives a TIFF's size as it is after the turn.
            may_be_sideways = turn and width != height and image.format != "TIFF"
            if may_be_sideways and orientation_tag(image) in _SIDEWAYS:
                return height, width
            return width, height
    except Exception:  # damaged bytes make Pillow raise errors of every kind
        return None


def _open(path: str) -> "Image.Image":
    from PIL import Image

    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 (faster, for a million files)
        raise ValueError("not a regular file")  # reading a pipe would never end
    return Image.open(path, formats=FORMATS)


def maximum_of(path: str, kind: "Kind") -> int:
    """The largest value in a 16-bit image of a kind; 0 for other images and unreadable ones.

    Of 16-bit colour Pillow reads the upper 8 bits only, so the lower 8 are all set in the result.
    """
    try:
        with _open(path) as image:
            if kind == "grey" and _is_deep_grey(image):
                return int(np.asarray(image).max())
            if kind == "colour" and _is_deep_colour(image):
                highest = int(np.asarray(image)[..., :3].max())  # without alpha
                return highest << KEPT_BITS | 0xFF
    except Exception:  # damaged bytes make Pillow raise errors of every kind; `decode` reports them
        return 0
    return 0


def _is_deep_grey(image: "Image.Image") -> bool:
    return image.mode.startswith("I")


def _is_deep_colour(image: "Image.Image") -> bool:
    """Whether the file has 16 bits a channel, before its pixels are read."""
    for tile in getattr(image, "tile", []):
        arguments = tile[3]
        layout = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
        if isinstance(layout, str) and _DEEP_LAYOUT.search(layout) and not _is_deep_grey(image):
            return True
    return False


def _as_rgb(image: "Image.Image", depth: "BitDepth | None") -> "Image.Image":
    """Three bytes per pixel: alpha is dropped, grey is repeated, 16-bit grey is scaled down."""
    from PIL import Image

    if _is_deep_grey(image):
        return Image.fromarray(_as_bytes(np.asarray(image), depth)).convert("RGB")

    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers, whose range is unknown")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _as_bytes(grey: np.ndarray, depth: "BitDepth | None") -> np.ndarray:
    """16-bit grey [H, W] as uint8. Pillow's own conversion would clip every value above 255."""
    if grey.min() < 0 or grey.max() > 0xFFFF:
        raise ValueError(f"grey values from {grey.min()} to {grey.max()} exceed 16 bits")

    used_bits = 16
    if depth:
        used_bits = depth.used("grey")
    scaled = grey >> (used_bits - KEPT_BITS)
    if depth and scaled.max() > 0xFF:
        depth.count_clipped()
    return scaled.clip(max=0xFF).astype(np.uint8)
