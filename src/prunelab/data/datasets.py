"""DATASETS: the data sets by name, each read from data/raw (or from a package) as uint8 arrays."""

import hashlib
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Protocol
from urllib.request import Request, urlopen

import numpy as np

from prunelab.data.splits import Split
from prunelab.errors import Refused


@dataclass(frozen=True)
class Raw:
    """A data set as published; `test` is None where there is no official test split."""

    train: Split
    test: Split | None
    class_names: list[str]


class Dataset(Protocol):
    """A data set that can be looked for in a folder, fetched into it, and read."""

    classes: int
    shape: tuple[int, int, int]  # channels, height, width

    def missing(self, folder: Path) -> list[str]:
        """One line for every file that is not there."""

    def damaged(self, folder: Path) -> list[str]:
        """One line for every file that is there with a wrong checksum."""

    def reachable(self) -> bool:
        """Whether what is missing could be downloaded now."""

    def download(self, folder: Path) -> None:
        """Fetch what is missing; raises Refused if that fails."""

    def read(self, folder: Path) -> Raw: ...


class Digits:
    """1,797 handwritten digits of 8x8 pixels (E. Alpaydin, C. Kaynak, UCI 1998), shipped inside scikit-learn."""

    classes = 10
    shape = (1, 8, 8)

    def missing(self, folder: Path) -> list[str]:
        return []

    def damaged(self, folder: Path) -> list[str]:
        return []

    def reachable(self) -> bool:
        return True

    def download(self, folder: Path) -> None:
        pass

    def read(self, folder: Path) -> Raw:
        from sklearn.datasets import load_digits

        digits = load_digits()
        # Pixels are the integers 0 to 16; stretched to the range of a byte, which keeps all 17 levels apart.
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]
        return Raw(Split(images, digits.target.astype(np.int64)), None, [str(name) for name in digits.target_names])


class Cifar:
    """CIFAR-10 or CIFAR-100 (A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009).

    torchvision owns the address, the file list and the checksums; files already in the folder need no network.
    """

    shape = (3, 32, 32)

    def __init__(self, classes: int):
        self.classes = classes

    @property
    def _source(self):
        from torchvision import datasets  # seconds to import: only for those who use it

        return {10: datasets.CIFAR10, 100: datasets.CIFAR100}[self.classes]

    def _files(self, folder: Path) -> list[tuple[Path, str]]:
        source = self._source
        listed = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]
        return [(folder / source.base_folder / name, md5) for name, md5 in listed]

    def _hint(self, path: Path, md5: str) -> str:
        return f"expected MD5 {md5}; `dvc repro prepare` downloads it from {self._source.url}, or unpack that archive"

    def missing(self, folder: Path) -> list[str]:
        absent = [(path, md5) for path, md5 in self._files(folder) if not path.is_file()]
        return [f"{path} is missing ({self._hint(path, md5)} into {folder})" for path, md5 in absent]

    def damaged(self, folder: Path) -> list[str]:
        found = [(path, md5, _md5(path)) for path, md5 in self._files(folder) if path.is_file()]
        return [
            f"{path} is damaged: its MD5 is {got}; delete it ({self._hint(path, md5)} into {folder})"
            for path, md5, got in found
            if got != md5
        ]

    def reachable(self) -> bool:
        try:
            with urlopen(Request(self._source.url, method="HEAD"), timeout=10):  # noqa: S310 (torchvision's address)
                return True
        except (OSError, HTTPException):
            return False

    def download(self, folder: Path) -> None:
        try:
            self._source(str(folder), download=True)
        except Exception as error:  # whatever the network, the disk or the archive came up with
            raise Refused([f"downloading {self._source.url} failed: {error}", *self.missing(folder)]) from None

    def read(self, folder: Path) -> Raw:
        train, test = (self._source(str(folder), train=train) for train in (True, False))
        return Raw(_as_split(train.data, train.targets), _as_split(test.data, test.targets), list(train.classes))


def _as_split(images: np.ndarray, labels: list[int]) -> Split:
    return Split(np.ascontiguousarray(images.transpose(0, 3, 1, 2)), np.array(labels, dtype=np.int64))


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


DATASETS: dict[str, Dataset] = {
    "digits": Digits(),
    "cifar10": Cifar(classes=10),
    "cifar100": Cifar(classes=100),
}
