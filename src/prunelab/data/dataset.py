"""What a data set is: how one is asked for, what it can be asked, and the parts it hands out."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np

Shape = tuple[int, ...]


@dataclass(frozen=True)
class DataConfig:
    """Where a data set lies and how it is wanted: the parameters of these names; each data set uses what concerns it.

    `raw` is the folder that downloads go to; `path` is `data.source`; `weights` names a text encoder's tokenizer.
    """

    raw: Path
    path: str | None = None
    resize: int | None = None
    text_column: str = "text"
    label_column: str = "label"
    tokens: int = 64
    weights: str = "none"

    @property
    def place(self) -> Path | None:
        """Where `path` leads; a ~ is the home folder, and a letter where it names nobody."""
        return Path(os.path.expanduser(self.path)) if self.path else None  # noqa: PTH111 (Path's raises for nobody)


@dataclass(frozen=True)
class DataInfo:
    """The number of classes, and the shape of one example as networks see it: (3, 224, 224) or, for texts, (tokens,).

    Where images are resized as batches are made, the arrays that `Dataset.read` returns keep their own size.
    """

    classes: int
    shape: Shape


class Part(Protocol):
    """Examples with their classes, in memory (`splits.Split`) or still to be decoded from files.

    `shape` and `dtype` are those of one stored example: uint8 (C, H, W) for images, int64 (L,) for token ids.
    """

    @property
    def labels(self) -> np.ndarray: ...  # int64 [N], 0 to classes - 1

    @property
    def shape(self) -> Shape: ...

    @property
    def dtype(self) -> np.dtype: ...

    def __len__(self) -> int: ...

    def name(self, row: int) -> str:
        """What to call an example in a message: its file, or its number."""

    def at(self, indices: np.ndarray) -> Self:
        """The examples of these indices, in this order."""

    def chunks(self) -> Iterator[np.ndarray]:
        """The examples in order, [n, *shape] at a time, so that memory stays bounded.

        Raises:
            InputError: at the end, if some could not be decoded: how many of them, and the first few.
        """


@dataclass(frozen=True)
class SplitData:
    """A data set as published; `test` and `validation` are None where there is no official split of that name."""

    train: Part
    test: Part | None
    class_names: list[str]
    validation: Part | None = None


class Dataset(Protocol):
    """One data set, made by `DATASETS[name](Source(...))`; making it touches no file.

    `missing`, `damaged`, `facts` and `digest` answer in seconds: `prunelab check` asks them before any work.
    """

    def __init__(self, source: DataConfig): ...

    def missing(self) -> list[str]:
        """One line for everything that is not there: files, or the path that must be given in `data.source`."""

    def damaged(self) -> list[str]:
        """One line for everything that is there but cannot be used: a wrong checksum, a class without images."""

    def reachable(self) -> bool:
        """Whether what is missing could be downloaded now."""

    def download(self) -> None:
        """Fetch what is missing; raises InputError if that fails or nothing can be fetched."""

    def facts(self) -> DataInfo:
        """Constants of published sets, else read from the source; raises InputError as `missing` and `damaged` tell."""

    def digest(self) -> str | None:
        """A hash by which a changed source is noticed; None for published sets, whose checksums are known."""

    def read(self) -> SplitData: ...
