"""The vocabulary of data sets: their configuration, their interface and what they hand out.

Nothing here reads files. The data sets themselves are in `prunelab.datasets`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from prunelab.config.params import Conflicts, Interpolation, Orientation
from prunelab.core.files import user_path

Shape = tuple[int, ...]


@dataclass(frozen=True)
class DataConfig:
    """The parameters that data sets read. Each data set uses only the fields that it needs.

    Args:
        raw: the folder that downloads go to
        path: `data.source`, a file or folder of the user; None if the data set is published
        resize: side of the square images in pixels; None keeps their size
        text_column: name of the column that holds the texts of a table
        label_column: name of the column that holds the labels of a table
        tokens: number of token ids of each text; longer texts are truncated
        weights: the text encoder whose tokenizer is used
        table: a table of the images in `path` and their labels; None if folders are the classes
        file_column: name of the column that holds the files of such a table
        split_column: name of the column that holds their splits, if the table has it; None if a
            column of that name is something else
        exif: `apply` turns images as their EXIF orientation says, `ignore` does not
        conflicts: what happens to equal images with different labels: `refuse`, `keep`, `drop`
        unreadable: the share of images that may be left out because they cannot be decoded
        interpolation: how images are resized
    """

    raw: Path
    path: str | None = None
    resize: int | None = None
    text_column: str = "text"
    label_column: str = "label"
    tokens: int = 64
    weights: str = "none"
    table: str | None = None
    file_column: str = "file"
    split_column: str | None = "split"
    exif: Orientation = "apply"
    conflicts: Conflicts = "refuse"
    unreadable: float = 0.0
    interpolation: Interpolation = "bilinear"

    @property
    def turns_images(self) -> bool:
        """Whether images are turned as their EXIF orientation says."""
        return self.exif == "apply"

    @property
    def place(self) -> Path | None:
        """`path` with a leading ~ replaced by the home folder."""
        if not self.path:
            return None
        return user_path(self.path)


@dataclass(frozen=True)
class DataInfo:
    """The number of classes, and the shape of one example as networks see it.

    The shape is (3, 224, 224) for images, for instance, or (tokens,) for texts. If images are
    resized while batches are made, the arrays that `Dataset.read` returns still have their original
    size.
    """

    classes: int
    shape: Shape


class Examples(Protocol):
    """Examples and their classes, in memory (`splits.Split`) or in files decoded on demand.

    `shape` and `dtype` describe one stored example: uint8 (C, H, W) for images, int64 (L,) for
    texts.
    """

    @property
    def labels(self) -> np.ndarray: ...  # int64 [N], 0 to classes - 1

    @property
    def shape(self) -> Shape: ...

    @property
    def dtype(self) -> np.dtype: ...

    def __len__(self) -> int: ...

    def name(self, row: int) -> str:
        """The name of an example for messages: its file, or its number."""

    def at(self, indices: np.ndarray) -> Self:
        """The examples at `indices`, in that order."""

    def chunks(self) -> Iterator[np.ndarray]:
        """All examples in order, in arrays of shape [n, *shape] that bound the memory in use.

        Raises:
            InputError: after the last chunk, if examples could not be decoded: their number and the
                first few names.
        """


@dataclass(frozen=True)
class ClassCounts:
    """How many examples of every class the official training split has, and what else is official.

    The classes of `train` are in the order of their numbers.
    """

    train: dict[str, int]
    has_test: bool = False
    has_validation: bool = False


@dataclass(frozen=True)
class SplitData:
    """A data set as published. `test` or `validation` is None if it has no such official split.

    `record` is what else dataset.json says about it.
    """

    train: Examples
    test: Examples | None
    class_names: list[str]
    validation: Examples | None = None
    record: Mapping[str, Any] = field(default_factory=dict)

    def class_counts(self) -> ClassCounts:
        counts = np.bincount(self.train.labels, minlength=len(self.class_names)).tolist()
        return ClassCounts(
            dict(zip(self.class_names, counts, strict=True)),
            has_test=self.test is not None,
            has_validation=self.validation is not None,
        )


class Dataset(Protocol):
    """One data set, made by `DATASETS[name](DataConfig(...))`. Making it touches no file.

    `missing`, `damaged`, `info`, `class_counts` and `digest` take seconds: `prunelab check` calls
    them before a run.
    """

    def __init__(self, config: DataConfig) -> None: ...

    def missing(self) -> list[str]:
        """One line for each absent file, or for a `data.source` that must be set."""

    def damaged(self) -> list[str]:
        """One line for each thing that exists but is unusable, such as a class without images."""

    def reachable(self) -> bool:
        """Whether the missing files could be downloaded now."""

    def download(self) -> None:
        """Fetch the missing files.

        Raises:
            InputError: if the download fails, or if this data set cannot be downloaded.
        """

    def info(self) -> DataInfo:
        """Constants for published data sets; otherwise read from the source.

        Raises:
            InputError: with the lines of `missing` or `damaged`.
        """

    def class_counts(self) -> ClassCounts:
        """The counts of what `read` returns.

        Raises:
            InputError: with the lines of `missing` or `damaged`.
        """

    def digest(self) -> str | None:
        """A hash that changes with the source; None for published data, which have checksums."""

    def read(self) -> SplitData:
        """All examples, in their official splits."""
