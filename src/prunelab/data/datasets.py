"""DATASETS: the data sets by name; protocol.py says what each of them can be asked."""

import hashlib
from collections.abc import Callable
from functools import partial
from http.client import HTTPException
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np

from prunelab.data.imagefolder import ImageFolder
from prunelab.data.protocol import Dataset, Facts, Raw, Shape, Source
from prunelab.data.splits import Split
from prunelab.data.text import TextTable
from prunelab.errors import Refused


class Digits:
    """1,797 handwritten digits of 8x8 pixels (E. Alpaydin, C. Kaynak, UCI 1998), shipped inside scikit-learn."""

    def __init__(self, source: Source):
        self._source = source

    def missing(self) -> list[str]:
        return []

    def damaged(self) -> list[str]:
        return []

    def reachable(self) -> bool:
        return True

    def download(self) -> None:
        pass

    def facts(self) -> Facts:
        return Facts(10, _resized((1, 8, 8), self._source.resize))

    def digest(self) -> None:
        return None

    def read(self) -> Raw:
        from sklearn.datasets import load_digits

        digits = load_digits()
        # Pixels are the integers 0 to 16; stretched to the range of a byte, which keeps all 17 levels apart.
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]
        return Raw(Split(images, digits.target.astype(np.int64)), None, [str(name) for name in digits.target_names])


class Cifar:
    """CIFAR-10 or CIFAR-100 (A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009).

    torchvision owns the address, the file list and the checksums; files already in the folder need no network.
    """

    def __init__(self, source: Source, classes: int):
        self._folder, self._resize, self._classes = source.raw, source.resize, classes

    @property
    def _origin(self):
        from torchvision import datasets  # seconds to import: only for those who use it

        return {10: datasets.CIFAR10, 100: datasets.CIFAR100}[self._classes]

    def _files(self) -> list[tuple[Path, str]]:
        origin = self._origin
        listed = [*origin.train_list, *origin.test_list, (origin.meta["filename"], origin.meta["md5"])]
        return [(self._folder / origin.base_folder / name, md5) for name, md5 in listed]

    def _hint(self, path: Path, md5: str) -> str:
        return f"expected MD5 {md5}; `dvc repro prepare` downloads it from {self._origin.url}, or unpack that archive"

    def missing(self) -> list[str]:
        absent = [(path, md5) for path, md5 in self._files() if not path.is_file()]
        return [f"{path} is missing ({self._hint(path, md5)} into {self._folder})" for path, md5 in absent]

    def damaged(self) -> list[str]:
        found = [(path, md5, _md5(path)) for path, md5 in self._files() if path.is_file()]
        return [
            f"{path} is damaged: its MD5 is {got}; delete it ({self._hint(path, md5)} into {self._folder})"
            for path, md5, got in found
            if got != md5
        ]

    def reachable(self) -> bool:
        try:
            with urlopen(Request(self._origin.url, method="HEAD"), timeout=10):  # noqa: S310 (torchvision's address)
                return True
        except (OSError, HTTPException):
            return False

    def download(self) -> None:
        try:
            self._origin(str(self._folder), download=True)
        except Exception as error:  # whatever the network, the disk or the archive came up with
            raise Refused([f"downloading {self._origin.url} failed: {error}", *self.missing()]) from None

    def facts(self) -> Facts:
        return Facts(self._classes, _resized((3, 32, 32), self._resize))

    def digest(self) -> None:
        return None

    def read(self) -> Raw:
        train, test = (self._origin(str(self._folder), train=train) for train in (True, False))
        return Raw(_as_split(train.data, train.targets), _as_split(test.data, test.targets), list(train.classes))


def _resized(shape: Shape, side: int | None) -> Shape:
    # The arrays keep their size: as batches are made, images are resized after cropping, 50 times smaller in memory.
    return (shape[0], side, side) if side else shape


def _as_split(images: np.ndarray, labels: list[int]) -> Split:
    return Split(np.ascontiguousarray(images.transpose(0, 3, 1, 2)), np.array(labels, dtype=np.int64))


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


DATASETS: dict[str, Callable[[Source], Dataset]] = {
    "digits": Digits,
    "cifar10": partial(Cifar, classes=10),
    "cifar100": partial(Cifar, classes=100),
    "imagefolder": ImageFolder,
    "text_tsv": TextTable,
}
