"""A folder with one folder of images per class, or ImageNet's layout: `train` beside `val` or `test`."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from prunelab.core.errors import InputError, one_line
from prunelab.data.dataset import DataConfig, DataInfo, Shape, SplitData
from prunelab.data.splits import NAMED, chunk_rows, too_few
from prunelab.datasets.images import decode, size_of

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
VALIDATION = ("val", "validation", "valid")
SPLITS = {"train", *VALIDATION, "test"}


@dataclass(frozen=True)
class ImageFiles:
    """Images still to be decoded: a `protocol.Part` that reads its files as it hands out chunks."""

    paths: np.ndarray  # of str
    labels: np.ndarray
    shape: Shape
    resize: int | None
    dtype: np.dtype = field(default=np.dtype(np.uint8))

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, row: int) -> str:
        return str(self.paths[row])

    def at(self, indices: np.ndarray) -> "ImageFiles":
        return ImageFiles(self.paths[indices], self.labels[indices], self.shape, self.resize)

    def chunks(self) -> Iterator[np.ndarray]:
        rows, failed = chunk_rows(self.shape, self.dtype), []
        # Threads are enough: Pillow decodes and resizes without Python's lock.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(self), rows):
                paths = self.paths[start : start + rows]
                chunk = np.zeros((len(paths), *self.shape), self.dtype)
                for row, path, image in zip(
                    chunk, paths, pool.map(self._decoded, paths), strict=True
                ):
                    if isinstance(image, str):
                        failed.append(f"{path} ({image})")
                    else:
                        row[:] = image
                yield chunk
        if failed:
            raise InputError(
                f"{len(failed)} of {len(self)} images cannot be decoded: {_first(failed)}"
            )

    def _decoded(self, path: str) -> np.ndarray | str:
        """The image, or what is wrong with it."""
        try:
            image = decode(path, self.resize)
        except Exception as error:  # Pillow's decoders raise whatever damaged bytes lead them to
            told = " ".join(str(error).replace(repr(path), "").split())  # the caller names the file
            return f"{type(error).__name__}: {told}"
        if image.shape != self.shape:
            return f"its shape is {image.shape}, the others have {self.shape}"
        return image


@dataclass(frozen=True)
class _Tree:
    """One official split on disk: per class, by name, the paths of its images; and how many other files lie there."""

    images: dict[str, list[str]]
    ignored: int


class ImageFolder:
    """Any folder of class folders (`data.source`), as RGB squares of `data.resize` pixels.

    The classes are the folders' names, sorted; images lie anywhere below them; hidden files and folders count for
    nothing. With `train` and `val` alone, `val` is the test split and the validation split is parted from `train`;
    with `test` as well, all three are as they are published.
    """

    def __init__(self, source: DataConfig):
        self._root = source.place
        self._resize = source.resize

    def missing(self) -> list[str]:
        if self._root is None:
            return ["data.source: null; imagefolder needs the path of a folder of class folders"]
        if not self._root.is_dir():
            return [
                f"data.source: {self._root} is no folder; imagefolder needs a folder of class folders"
            ]
        return []

    def damaged(self) -> list[str]:
        return [] if self.missing() else self._structure or self._sizes[1]

    def reachable(self) -> bool:
        return False

    def download(self) -> None:
        raise InputError(self.missing())

    def facts(self) -> DataInfo:
        if problems := self.missing() or self.damaged():
            raise InputError(problems)
        width, height = (self._resize, self._resize) if self._resize else self._sizes[0]
        return DataInfo(len(self._class_names), (3, height, width))

    def digest(self) -> str:
        """A hash of the names and sizes of all images."""
        root, digest = self._folder, hashlib.sha256()
        paths = [
            path
            for tree in self._trees.values()
            for paths in tree.images.values()
            for path in paths
        ]
        for name, path in sorted((os.path.relpath(path, root), path) for path in paths):
            digest.update(
                os.fsencode(name) + b"\0%d\n" % os.lstat(path).st_size
            )  # a link may lead nowhere
        return digest.hexdigest()

    def read(self) -> SplitData:
        shape = self.facts().shape
        if ignored := sum(tree.ignored for tree in self._trees.values()):
            print(
                one_line(
                    f"{self._root}: ignored {ignored} files that are no images or lie outside the class folders"
                )
            )
        parts = {name: self._files(tree, shape) for name, tree in self._trees.items()}
        test, validation = parts.get("test"), parts.get("val")
        if test is None:
            test, validation = validation, None
        return SplitData(parts["train"], test, self._class_names, validation)

    def _files(self, tree: _Tree, shape: Shape) -> ImageFiles:
        paths = [path for name in self._class_names for path in tree.images[name]]
        counts = [len(tree.images[name]) for name in self._class_names]
        labels = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
        return ImageFiles(np.array(paths, dtype=object), labels, shape, self._resize)

    @property
    def _folder(self) -> Path:
        if self._root is None:
            raise InputError(self.missing())
        return self._root

    @cached_property
    def _trees(self) -> dict[str, _Tree]:
        """The official splits, `train` and perhaps `val` and `test`; a plain folder of classes is all `train`."""
        return {name: _tree(folder) for name, folder in _official(self._folder).items()}

    @property
    def _class_names(self) -> list[str]:
        return sorted(self._trees["train"].images)

    @cached_property
    def _structure(self) -> list[str]:
        if unclear := _unclear(self._folder):
            return [unclear]
        classes, problems = set(self._class_names), []
        if len(classes) < 2:
            found = (
                f"only the class folder {next(iter(classes))}" if classes else "no class folders"
            )
            problems.append(
                f"data.source: {self._root} has {found}; at least two are needed, with images in them"
            )
        for name, tree in self._trees.items():
            empty = sorted(label for label, images in tree.images.items() if not images)
            if empty:
                problems.append(
                    f"data.source: class folders of {self._root} without images in {name}: {_first(empty)}"
                )
            if differing := sorted(classes ^ set(tree.images)):
                told = [
                    f"{label} ({'train' if label in classes else name} alone)"
                    for label in differing
                ]
                problems.append(
                    f"data.source: the classes of {self._root} differ in train and {name}: {_first(told)}"
                )
        counts = {label: len(images) for label, images in self._trees["train"].images.items()}
        return problems or too_few(counts, needed=4 - len(self._trees))

    @cached_property
    def _sizes(self) -> tuple[tuple[int, int], list[str]]:
        """The (width, height) of all images, and the problem, if any; with `resize` they may be of any size."""
        first: tuple[tuple[int, int], str] | None = None
        unread = []
        if self._resize:
            return (self._resize, self._resize), []
        for tree in self._trees.values():
            for path in (path for paths in tree.images.values() for path in paths):
                size = size_of(path)
                if size is None:
                    unread.append(path)
                elif first is None:
                    first = size, path
                elif size != first[0]:
                    sizes = [
                        f"{width}x{height} ({path})"
                        for (width, height), path in (first, (size, path))
                    ]
                    return size, [
                        f"data.resize is null, but images differ in size: {' and '.join(sizes)}; set a size"
                    ]
        problems = (
            [f"data.source: {len(unread)} images cannot be read: {_first(unread)}"]
            if unread
            else []
        )
        return first[0] if first else (0, 0), problems


def _official(root: Path) -> dict[str, Path]:
    """Folders of the official splits: by their names if `train` stands beside another or alone, else the root."""
    folders = {folder.name for folder in _subfolders(root)}
    validation = next((name for name in VALIDATION if name in folders), "val")
    named = {"train": root / "train", "val": root / validation, "test": root / "test"}
    # A folder of images without classes, as ImageNet's test has it, tells nothing: those files are not used.
    found = {
        name: folder
        for name, folder in named.items()
        if folder.name in folders and _subfolders(folder)
    }
    return found if "train" in found and (len(found) > 1 or folders <= SPLITS) else {"train": root}


def _unclear(root: Path) -> str | None:
    """What is wrong if folders look like official splits and cannot be read as such; a class may be called train."""
    folders = [folder.name for folder in _subfolders(root)]
    alike = [name for name in folders if name.lower() in SPLITS]
    splits = (alike == folders and len(alike) > 1) or any(
        _subfolders(root / name) for name in alike
    )
    if not splits or _official(root) != {"train": root}:
        return None
    return (
        f"data.source: {', '.join(alike)} in {root} look like official splits, but these are train, val and test, in "
        "small letters, train among them, with class folders in each; give that, or a folder of class folders alone"
    )


def _subfolders(folder: Path) -> list[Path]:
    return [
        entry
        for entry in sorted(folder.iterdir())
        if entry.is_dir() and not entry.name.startswith(".")
    ]


def _tree(folder: Path) -> _Tree:
    found: dict[str, list[str]] = {}
    ignored = sum(entry.is_file() for entry in folder.iterdir())
    for class_folder in _subfolders(folder):
        paths = []
        for where, inner, names in os.walk(class_folder):
            inner[:] = [name for name in inner if not name.startswith(".")]
            paths += [os.path.join(where, name) for name in names]  # noqa: PTH118 (a million of them)
        images = sorted(filter(_is_image, paths))
        found[class_folder.name] = images
        ignored += len(paths) - len(images)
    return _Tree(found, ignored)


def _is_image(path: str) -> bool:
    name = os.path.basename(path)  # noqa: PTH119
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122


def _first(items: list[str]) -> str:
    more = len(items) - NAMED
    return ", ".join(items[:NAMED]) + (f" and {more} more" if more > 0 else "")
