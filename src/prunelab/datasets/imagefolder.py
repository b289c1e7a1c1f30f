"""A folder with one folder of images per class, or several: `train` beside `val` or `test`."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from prunelab.core.errors import InputError, one_line
from prunelab.core.text import name_list
from prunelab.data.dataset import ClassCounts, Shape, SplitData
from prunelab.data.splits import class_size_problems
from prunelab.datasets.image_files import (
    ImageFiles,
    count_files,
    is_image,
    is_leftover,
    is_leftover_folder,
)
from prunelab.datasets.own_images import OwnImages

VALIDATION_FOLDERS = ("val", "validation", "valid")
SPLIT_FOLDERS = {"train", *VALIDATION_FOLDERS, "test"}


@dataclass(frozen=True)
class _ClassFolders:
    """The images of one split, and what lies beside them.

    Args:
        images: paths by class
        ignored: number of other files
        leftovers: number of files that macOS or Windows left there
        dead_links: links that lead nowhere and have no name of an image
        loops: links to a folder that they lie in, which were not followed
    """

    images: dict[str, list[str]]
    ignored: int
    leftovers: int
    dead_links: list[str]
    loops: list[str]

    def paths(self) -> Iterator[str]:
        for paths in self.images.values():
            yield from paths


class ImageFolder(OwnImages):
    """Any folder of class folders (`data.source`), as RGB squares of `data.resize` pixels.

    Classes are the names of the folders, sorted. Images may lie at any depth below them. Links to
    folders are followed, and hidden files and folders are ignored. If there are only `train` and
    `val`, then `val` is the test split and the validation split is taken from `train`. If there is
    `test` as well, all three stay as published.
    """

    def missing(self) -> list[str]:
        if self._root is None:
            return ["data.source: null; imagefolder needs the path of a folder of class folders"]
        if not self._root.is_dir():
            return [
                f"data.source: {self._root} is not a folder; "
                "imagefolder needs a folder of class folders"
            ]
        return []

    def class_counts(self) -> ClassCounts:
        problems = self.missing() or self._listed_problems
        if problems:
            raise InputError(problems)

        train = self._splits["train"].images
        return ClassCounts(
            {class_name: len(train[class_name]) for class_name in self._class_names},
            has_test=len(self._splits) > 1,
            has_validation=len(self._splits) > 2,
        )

    def digest(self) -> str:
        """A hash of the names and sizes of all images."""
        root = self._folder
        named_paths = []
        for split in self._splits.values():
            named_paths += [(os.path.relpath(path, root), path) for path in split.paths()]

        digest = hashlib.sha256()
        for name, path in sorted(named_paths):
            size = os.lstat(path).st_size  # of a link itself, because its target may be missing
            digest.update(os.fsencode(name) + b"\0%d\n" % size)
        return digest.hexdigest()

    def notes(self) -> list[str]:
        """What was left aside in the folder, a line each."""
        lines = []
        if self._leftovers:
            lines.append(
                f"{self._root}: skipped {self._leftovers} files that macOS or Windows left there"
            )

        ignored = sum(split.ignored for split in self._splits.values())
        if ignored:
            lines.append(
                f"{self._root}: ignored {ignored} files "
                "that are not images or lie outside the class folders"
            )

        dead_links = []
        for split in self._splits.values():
            dead_links += split.dead_links
        if dead_links:
            names = name_list(dead_links)
            lines.append(f"{self._root}: ignored {len(dead_links)} links to nowhere: {names}")
        return lines

    def labelled_files(self) -> Iterator[tuple[str, str]]:
        """Every image's path and class."""
        for split in self._splits.values():
            for class_name, paths in split.images.items():
                for path in paths:
                    yield path, class_name

    @property
    def _leftovers(self) -> int:
        leftovers = sum(split.leftovers for split in self._splits.values())
        if self._folder not in self._split_folders.values():  # files beside train and test
            leftovers += _count_leftovers(self._folder)
        return leftovers

    def read(self) -> SplitData:
        shape = self.info().shape
        for line in self.notes():
            print(one_line(line))

        files = {name: self._files_of(split, shape) for name, split in self._splits.items()}
        test, validation = files.get("test"), files.get("val")
        if test is None:
            test, validation = validation, None
        return SplitData(
            files["train"],
            test,
            self._class_names,
            validation,
            record={"leftovers": self._leftovers},
        )

    def _files_of(self, split: _ClassFolders, shape: Shape) -> ImageFiles:
        paths: list[str] = []
        counts = []
        for name in self._class_names:
            paths += split.images[name]
            counts.append(len(split.images[name]))

        labels = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
        return self._image_files(paths, labels, shape)

    @property
    def _folder(self) -> Path:
        if self._root is None:
            raise InputError(self.missing())
        return self._root

    @cached_property
    def _splits(self) -> dict[str, _ClassFolders]:
        """`train`, and perhaps `val` and `test`; a plain folder of classes is all `train`."""
        return {name: _list_images(folder) for name, folder in self._split_folders.items()}

    @cached_property
    def _split_folders(self) -> dict[str, Path]:
        return _split_folders(self._folder)

    @property
    def _class_names(self) -> list[str]:
        return sorted(self._splits["train"].images)

    @cached_property
    def _listed_problems(self) -> list[str]:
        """What is wrong with the folders: their names, the classes, or the number of images."""
        misnamed = _misnamed_splits(self._folder)
        if misnamed:
            return [misnamed]

        loops = self._loops()
        if loops:
            return loops

        problems = self._too_few_classes()
        for name, split in self._splits.items():
            problems += self._class_problems(name, split)
        if problems:
            return problems

        train = self._splits["train"].images
        class_counts = {class_name: len(paths) for class_name, paths in train.items()}
        return class_size_problems(class_counts, needed=4 - len(self._splits))

    def _loops(self) -> list[str]:
        loops = []
        for split in self._splits.values():
            loops += split.loops
        if not loops:
            return []
        return [
            f"data.source: {len(loops)} links lead to a folder that they lie in: "
            f"{name_list(loops)}. Remove them."
        ]

    def _too_few_classes(self) -> list[str]:
        class_names = self._class_names
        if len(class_names) >= 2:
            return []

        content = "no class folders"
        if class_names:
            content = f"only the class folder {class_names[0]}"
        return [
            f"data.source: {self._root} has {content}. "
            "It needs at least two class folders with images."
        ]

    def _class_problems(self, name: str, split: _ClassFolders) -> list[str]:
        """Classes of one split that are empty, or that only this split or only `train` has."""
        problems = []

        empty = sorted(class_name for class_name, paths in split.images.items() if not paths)
        if empty:
            problems.append(
                f"data.source: class folders of {self._root} without images in {name}: "
                f"{name_list(empty)}"
            )

        train_classes = set(self._class_names)
        differing = []
        for class_name in sorted(train_classes ^ set(split.images)):
            only_in = "train" if class_name in train_classes else name
            differing.append(f"{class_name} (only in {only_in})")
        if differing:
            problems.append(
                f"data.source: the classes of {self._root} differ in train and {name}: "
                f"{name_list(differing)}"
            )
        return problems


def _split_folders(root: Path) -> dict[str, Path]:
    """The folders of the official splits; the root as `train` if it has none.

    `train` makes official splits if another split is beside it, or if no other folders are.
    """
    names = {folder.name for folder in _subfolders(root)}
    validation = next((name for name in VALIDATION_FOLDERS if name in names), "val")

    splits = {}
    for split, folder_name in (("train", "train"), ("val", validation), ("test", "test")):
        # A split needs class folders. ImageNet's test images have no classes, so they are not used.
        if folder_name in names and _subfolders(root / folder_name):
            splits[split] = root / folder_name

    if "train" in splits and (len(splits) > 1 or names <= SPLIT_FOLDERS):
        return splits
    return {"train": root}


def _misnamed_splits(root: Path) -> str | None:
    """The problem if folders look like official splits but cannot be read as such.

    A class may also be called train or test, so the names alone do not decide.
    """
    folders = [folder.name for folder in _subfolders(root)]
    split_like = [name for name in folders if name.lower() in SPLIT_FOLDERS]

    nothing_else = split_like == folders and len(split_like) > 1
    hold_classes = any(_subfolders(root / name) for name in split_like)
    if not nothing_else and not hold_classes:
        return None
    if _split_folders(root) != {"train": root}:
        return None

    return (
        f"data.source: {', '.join(split_like)} in {root} look like official splits, but cannot be "
        "read as such. Name them train, val and test in small letters, with class folders in each "
        "of them; train is required. Or give a folder that holds only class folders."
    )


def _subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones and those of macOS."""
    folders = []
    for entry in sorted(folder.iterdir()):
        is_skipped = entry.name.startswith(".") or is_leftover_folder(entry.name)
        if entry.is_dir() and not is_skipped:
            folders.append(entry)
    return folders


def _count_leftovers(folder: Path) -> int:
    """The files of macOS and Windows directly in a folder, and those in `__MACOSX` there."""
    count = 0
    for entry in folder.iterdir():
        if is_leftover_folder(entry.name) and entry.is_dir():
            count += count_files(entry)
        elif is_leftover(entry.name) and not entry.is_dir():
            count += 1
    return count


def _list_images(folder: Path) -> _ClassFolders:
    """The images in the class folders of a folder.

    Raises:
        OSError: if a folder cannot be listed.
    """
    images: dict[str, list[str]] = {}
    loops: list[str] = []
    leftovers = _count_leftovers(folder)
    others = [str(entry) for entry in folder.iterdir() if not entry.is_dir()]

    for class_folder in _subfolders(folder):
        if _is_loop(class_folder, folder):
            loops.append(str(class_folder))
            continue

        image_paths = []
        skipped: list[str] = []
        for path in _walk(class_folder, folder, loops, skipped):
            if is_leftover(path):
                leftovers += 1
            elif is_image(path):
                image_paths.append(path)
            else:
                others.append(path)
        leftovers += sum(map(count_files, skipped))
        images[class_folder.name] = sorted(image_paths)

    others = [path for path in others if not is_leftover(path)]
    dead_links = [path for path in others if not os.path.exists(path)]  # noqa: PTH110
    ignored = len(others) - len(dead_links)
    return _ClassFolders(images, ignored, leftovers, sorted(dead_links), sorted(loops))


def _walk(class_folder: Path, top: Path, loops: list[str], skipped: list[str]) -> Iterator[str]:
    """All files below a class folder of `top`, but not in hidden folders. Links are followed.

    Links that lead back are added to `loops` instead, and the folders of macOS to `skipped`.
    """
    for parent, inner_folders, file_names in os.walk(
        class_folder, onerror=_raise_error, followlinks=True
    ):
        followed = []
        for name in inner_folders:
            inner = os.path.join(parent, name)  # noqa: PTH118 (faster than Path)
            if name.startswith("."):
                continue
            if is_leftover_folder(name):
                skipped.append(inner)
            elif _is_loop(Path(inner), top):
                loops.append(inner)
            else:
                followed.append(name)
        inner_folders[:] = followed

        for name in file_names:
            yield os.path.join(parent, name)  # noqa: PTH118 (faster, for a million files)


def _raise_error(error: OSError) -> None:
    raise error


def _is_loop(folder: Path, top: Path) -> bool:
    """Whether a folder below `top` is a link to a folder that it lies in. Its walk has no end."""
    if not folder.is_symlink():
        return False

    target = folder.resolve()
    for parent in folder.parents:
        if parent.resolve().is_relative_to(target):
            return True
        if parent == top:
            break
    return False
