"""Image files and their classes, decoded when they are needed, and what was met on the way.

Where the files and the classes come from is the business of `imagefolder` and `imagetable`.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from prunelab.config.params import Interpolation
from prunelab.core.errors import InputError
from prunelab.core.text import name_list
from prunelab.data.dataset import Examples, Shape, SplitData
from prunelab.data.splits import chunk_rows
from prunelab.datasets.bit_depth import BitDepth
from prunelab.datasets.images import Orientation, decode, decoding_problem, size_of

SUFFIXES = {
    ".jpg",
    ".jpeg",
    ".png",
    ".bmp",
    ".gif",
    ".webp",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".pbm",
}
# What macOS and Windows leave in folders and archives besides the user's own files, in small
# letters. A zip archive of macOS has a second tree of files, `__MACOSX`.
LEFTOVER_FOLDERS = {"__macosx"}
LEFTOVER_FILES = {".ds_store", "thumbs.db", "desktop.ini"}
LEFTOVER_PREFIX = "._"


@dataclass(frozen=True)
class ImageFiles:
    """`data.dataset.Examples` whose images are decoded when `chunks` hands them out.

    Args:
        paths: files, str [N]
        labels: classes, int64 [N]
        shape: (3, height, width) of every decoded image
        resize: side that images are resized to; None keeps their size
        depth: the bits of 16-bit images that are used; None stands for all 16
        orientation: turns images as their tag says; None leaves them as their pixels lie
        interpolation: how images are resized
        failures: gets the paths of images that cannot be decoded, in any order
    """

    paths: np.ndarray
    labels: np.ndarray
    shape: Shape
    resize: int | None
    depth: BitDepth | None = None
    orientation: Orientation | None = None
    interpolation: Interpolation = "bilinear"
    dtype: np.dtype = field(default=np.dtype(np.uint8))
    failures: set[str] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, row: int) -> str:
        return str(self.paths[row])

    def at(self, indices: np.ndarray) -> "ImageFiles":
        return replace(self, paths=self.paths[indices], labels=self.labels[indices])

    def without(self, left_out: set[str]) -> "ImageFiles":
        """The examples whose files are not among those left out."""
        kept = [row for row, path in enumerate(self.paths) if path not in left_out]
        return self.at(np.array(kept, dtype=np.int64))

    def chunks(self) -> Iterator[np.ndarray]:
        rows = chunk_rows(self.shape, self.dtype)
        problems: list[str] = []

        # Threads are enough, because Pillow decodes and resizes without holding Python's lock.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(self), rows):
                paths = self.paths[start : start + rows]
                chunk = np.zeros((len(paths), *self.shape), self.dtype)

                images = pool.map(self._decode, paths)
                for row, path, image in zip(chunk, paths, images, strict=True):
                    if isinstance(image, str):
                        problems.append(f"{path} ({image})")
                        self.failures.add(str(path))
                    else:
                        row[:] = image
                yield chunk

        if problems:
            raise InputError(
                f"{len(problems)} of {len(self)} images cannot be decoded: {name_list(problems)}"
            )

    def _decode(self, path: str) -> np.ndarray | str:
        """The image, or the problem with it. The caller adds the path."""
        try:
            image = decode(path, self.resize, self.depth, self.orientation, self.interpolation)
        except Exception as error:  # damaged bytes make Pillow raise errors of every kind
            return decoding_problem(error, path)

        if image.shape != self.shape:
            return f"its shape is {image.shape}, but the others have {self.shape}"
        return image


class Reading:
    """What is met while the images of a data set are decoded. All of its splits share it.

    Splits of anything but image files stay as they are.

    Args:
        splits: the splits by name; `train` decides how many bits of 16-bit images are used
        turn: whether images are turned as their EXIF tag says
    """

    def __init__(self, splits: Mapping[str, Examples], *, turn: bool) -> None:
        self._images = {}
        for name, split in splits.items():
            if isinstance(split, ImageFiles):
                self._images[name] = split

        self._depth = BitDepth([])
        if "train" in self._images:
            self._depth = BitDepth(self._images["train"].paths)
        self._orientation = Orientation()
        self.failures: set[str] = set()

        self.splits: dict[str, Examples] = dict(splits)
        for name, images in self._images.items():
            self.splits[name] = replace(
                images,
                depth=self._depth,
                orientation=self._orientation if turn else None,
                failures=self.failures,
            )

    @property
    def is_of_images(self) -> bool:
        """Whether the examples are images in files."""
        return bool(self._images)

    def record(self) -> dict[str, Any]:
        """What dataset.json says about it; nothing if there are no image files."""
        if not self.is_of_images:
            return {}
        return {"turned": self._orientation.turned} | self._depth.record()

    def report(self) -> list[str]:
        """The same in words, a line each."""
        lines = self._depth.report()
        if self._orientation.turned:
            lines.append(turned_line(self._orientation.turned))
        return lines


def turned_line(count: int) -> str:
    """How many images were turned, in words."""
    return f"{count} images were turned as their EXIF orientation says (data.exif)"


def leave_out(published: SplitData, left_out: set[str]) -> SplitData:
    """A data set without some of its files, by their paths.

    Raises:
        InputError: if an official split loses all its examples of a class.
    """
    kept: dict[str, Examples | None] = {}
    problems = []
    for name in ("train", "validation", "test"):
        split = getattr(published, name)
        if isinstance(split, ImageFiles):
            smaller = split.without(left_out)
            lost = sorted(set(split.labels.tolist()) - set(smaller.labels.tolist()))
            if lost:
                names = name_list([published.class_names[label] for label in lost])
                problems.append(
                    f"data.source: without the files that are left out, {name} has no image of "
                    f"{names}"
                )
            split = smaller
        kept[name] = split
    if problems:
        raise InputError(problems)

    train = kept["train"]
    assert train is not None
    return replace(published, train=train, validation=kept["validation"], test=kept["test"])


@dataclass(frozen=True)
class CommonSize:
    """The (width, height) of all images, and at most one problem that prevents it."""

    size: tuple[int, int]
    problems: list[str]


def common_size(
    paths: Iterable[str], resize: int | None, *, turn: bool, unreadable: float
) -> CommonSize:
    """The size of images. Without `resize` all must have one; with it they may have any.

    Args:
        paths: the files, which are not opened with `resize`
        resize: `data.resize`
        turn: whether images are turned as their EXIF tag says
        unreadable: the share of them that may be unreadable
    """
    if resize:
        return CommonSize((resize, resize), [])

    common: tuple[int, int] | None = None
    first_path = ""
    failures = []
    count = 0
    for path in paths:
        count += 1
        size = size_of(path, turn=turn)
        if size is None:
            failures.append(path)
        elif common is None:
            common, first_path = size, path
        elif size != common:
            return CommonSize(
                size,
                [
                    "data.resize is null, but images differ in size: "
                    f"{common[0]}x{common[1]} ({first_path}) and "
                    f"{size[0]}x{size[1]} ({path}). Set data.resize."
                ],
            )

    if common is None or len(failures) > unreadable * count:
        problem = f"data.source: {len(failures)} images cannot be read: {name_list(failures)}"
        return CommonSize(common or (0, 0), [problem])
    return CommonSize(common, [])


def is_image(path: str) -> bool:
    """Whether a file's name is that of an image which is not hidden."""
    name = os.path.basename(path)  # noqa: PTH119 (faster, for a million files)
    suffix = os.path.splitext(name)[1]  # noqa: PTH122
    return not name.startswith(".") and suffix.lower() in SUFFIXES


def is_leftover(path: str) -> bool:
    """Whether a file was made by macOS or Windows beside the user's own."""
    name = os.path.basename(path).lower()  # noqa: PTH119
    return name in LEFTOVER_FILES or name.startswith(LEFTOVER_PREFIX)


def is_leftover_folder(name: str) -> bool:
    """Whether a folder of this name is one that macOS adds to an archive."""
    return name.lower() in LEFTOVER_FOLDERS


def count_files(folder: str | os.PathLike[str]) -> int:
    """The number of files below a folder."""
    return sum(len(names) for _, _, names in os.walk(folder))
