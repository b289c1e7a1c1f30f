"""DATASETS: the data sets by name; protocol.py says what each of them can be asked."""

import shutil
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from prunelab.core.download import Checksum, fetch, reachable
from prunelab.core.errors import InputError
from prunelab.core.files import replacing
from prunelab.data.dataset import DataConfig, DataInfo, Dataset, Shape, SplitData
from prunelab.data.splits import Split
from prunelab.datasets.imagefolder import ImageFolder
from prunelab.datasets.text import TextTable


class Digits:
    """1,797 handwritten digits of 8x8 pixels (E. Alpaydin, C. Kaynak, UCI 1998), shipped inside scikit-learn."""

    def __init__(self, source: DataConfig):
        self._source = source

    def missing(self) -> list[str]:
        return []

    def damaged(self) -> list[str]:
        return []

    def reachable(self) -> bool:
        return True

    def download(self) -> None:
        pass

    def facts(self) -> DataInfo:
        return DataInfo(10, _resized((1, 8, 8), self._source.resize))

    def digest(self) -> None:
        return None

    def read(self) -> SplitData:
        from sklearn.datasets import load_digits

        digits = load_digits()
        # Pixels are the integers 0 to 16; stretched to the range of a byte, which keeps all 17 levels apart.
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]
        return SplitData(
            Split(images, digits.target.astype(np.int64)),
            None,
            [str(name) for name in digits.target_names],
        )


class Cifar:
    """CIFAR-10 or CIFAR-100 (A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009).

    torchvision owns the address, the file list and the checksums; files or the archive already in the folder need no
    network.
    """

    def __init__(self, source: DataConfig, classes: int):
        self._folder, self._resize, self._classes = source.raw, source.resize, classes

    @property
    def _origin(self):
        from torchvision import datasets  # seconds to import: only for those who use it

        return {10: datasets.CIFAR10, 100: datasets.CIFAR100}[self._classes]

    @property
    def _archive(self) -> Path:
        return self._folder / self._origin.filename

    def _files(self) -> list[tuple[Path, Checksum]]:
        origin = self._origin
        listed = [
            *origin.train_list,
            *origin.test_list,
            (origin.meta["filename"], origin.meta["md5"]),
        ]
        return [
            (self._folder / origin.base_folder / name, Checksum(md5, "md5")) for name, md5 in listed
        ]

    def _hint(self) -> str:
        return f"`dvc repro prepare` downloads it from {self._origin.url}, or unpack that archive into {self._folder}"

    def missing(self) -> list[str]:
        absent = [(path, checksum) for path, checksum in self._files() if not path.is_file()]
        return [
            f"{path} is missing (expected {checksum}; {self._hint()})" for path, checksum in absent
        ]

    def damaged(self) -> list[str]:
        found = [
            (path, checksum.problem(path)) for path, checksum in self._files() if path.is_file()
        ]
        return [
            f"{path} is damaged: {problem}; delete it ({self._hint()})"
            for path, problem in found
            if problem
        ]

    def reachable(self) -> bool:
        return self._archive.is_file() or reachable(self._origin.url)

    def download(self) -> None:
        try:
            fetch(self._origin.url, Checksum(self._origin.tgz_md5, "md5"), self._archive)
            self._unpack()
        except InputError as refused:
            raise InputError([*refused.problems, *self.missing()]) from None
        except (OSError, EOFError, tarfile.TarError) as error:
            raise InputError(
                [f"{self._archive} cannot be unpacked: {error}", *self.missing()]
            ) from None

    def _unpack(self) -> None:
        """Each file takes its name when it is whole; nothing else of the archive is written."""
        base, wanted = self._origin.base_folder, {path.name: path for path, _ in self._files()}
        with tarfile.open(self._archive) as archive:
            for name, path in wanted.items():
                member = archive.extractfile(f"{base}/{name}")
                assert member is not None, name  # the archive's checksum is right, so it is a file
                with replacing(path) as partial, partial.open("wb") as file:
                    shutil.copyfileobj(member, file)

    def facts(self) -> DataInfo:
        return DataInfo(self._classes, _resized((3, 32, 32), self._resize))

    def digest(self) -> None:
        return None

    def read(self) -> SplitData:
        train, test = (self._origin(str(self._folder), train=train) for train in (True, False))
        return SplitData(
            _as_split(train.data, train.targets),
            _as_split(test.data, test.targets),
            list(train.classes),
        )


def _resized(shape: Shape, side: int | None) -> Shape:
    # The arrays keep their size: as batches are made, images are resized after cropping, 50 times smaller in memory.
    return (shape[0], side, side) if side else shape


def _as_split(images: np.ndarray, labels: list[int]) -> Split:
    return Split(
        np.ascontiguousarray(images.transpose(0, 3, 1, 2)), np.array(labels, dtype=np.int64)
    )


DATASETS: dict[str, Callable[[DataConfig], Dataset]] = {
    "digits": Digits,
    "cifar10": partial(Cifar, classes=10),
    "cifar100": partial(Cifar, classes=100),
    "imagefolder": ImageFolder,
    "text_tsv": TextTable,
}
