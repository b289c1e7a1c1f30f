"""DATASETS: the data sets by name. `data.dataset.Dataset` describes what each of them can do."""

import shutil
import tarfile
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prunelab.core.download import Checksum, fetch, reachable
from prunelab.core.errors import InputError
from prunelab.core.files import replacing
from prunelab.core.registry import Table
from prunelab.data.dataset import ClassCounts, DataConfig, DataInfo, Dataset, Shape, SplitData
from prunelab.data.splits import Split
from prunelab.datasets.imagefolder import ImageFolder
from prunelab.datasets.imagetable import ImageTable
from prunelab.datasets.text import TextTable

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10


DIGITS = [str(digit) for digit in range(10)]
CIFAR_IMAGES = 50_000  # of training, the same number of every class


class Digits:
    """1,797 handwritten digits of 8x8 pixels (E. Alpaydin, C. Kaynak, UCI 1998), shipped inside scikit-learn."""  # noqa: E501 (`prunelab list` prints the first line)

    def __init__(self, config: DataConfig) -> None:
        self._config = config

    def missing(self) -> list[str]:
        return []

    def damaged(self) -> list[str]:
        return []

    def reachable(self) -> bool:
        return True

    def download(self) -> None:
        pass

    def info(self) -> DataInfo:
        return DataInfo(10, _network_shape((1, 8, 8), self._config.resize))

    def class_counts(self) -> ClassCounts:
        labels = np.loadtxt(_digits_file(), delimiter=",", usecols=-1, dtype=np.int64)
        return ClassCounts(dict(zip(DIGITS, np.bincount(labels).tolist(), strict=True)))

    def digest(self) -> None:
        return None

    def read(self) -> SplitData:
        # Reads what sklearn.datasets.load_digits reads, without its two seconds of imports.
        table = np.loadtxt(_digits_file(), delimiter=",")
        pixels, labels = table[:, :-1], table[:, -1]
        # Pixels are integers from 0 to 16. Stretched to 0..255, all 17 levels stay distinct.
        images = np.rint(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
        train = Split(images, labels.astype(np.int64))

        return SplitData(train=train, test=None, class_names=DIGITS)


def _digits_file() -> Path:
    """The table inside scikit-learn, with a digit per row: 64 pixels and the class."""
    spec = find_spec("sklearn")  # finds the package without importing it
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"


class Cifar:
    """CIFAR-10 or CIFAR-100 (A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009).

    torchvision knows the address, the file list and the checksums. If the files or the archive are
    already in the folder, no network is needed.
    """  # noqa: E501 (`prunelab list` prints the first line)

    def __init__(self, config: DataConfig, classes: int) -> None:
        self._folder = config.raw
        self._resize = config.resize
        self._classes = classes

    @property
    def _origin(self) -> "type[CIFAR10]":
        from torchvision import datasets  # takes seconds, so it is imported only when it is needed

        origin: type[CIFAR10] = datasets.CIFAR10
        if self._classes == 100:
            origin = datasets.CIFAR100
        return origin

    @property
    def _archive(self) -> Path:
        return self._folder.joinpath(self._origin.filename)

    def _files(self) -> dict[Path, Checksum]:
        origin = self._origin
        checksums = dict([*origin.train_list, *origin.test_list])
        checksums[origin.meta["filename"]] = origin.meta["md5"]

        folder = self._folder / origin.base_folder
        return {folder / name: Checksum(md5, "md5") for name, md5 in checksums.items()}

    def _hint(self) -> str:
        return (
            f"`dvc repro prepare` downloads it from {self._origin.url}, "
            f"or unpack that archive into {self._folder}"
        )

    def missing(self) -> list[str]:
        lines = []
        for path, checksum in self._files().items():
            if not path.is_file():
                lines.append(f"{path} is missing (expected {checksum}; {self._hint()})")
        return lines

    def damaged(self) -> list[str]:
        lines = []
        for path, checksum in self._files().items():
            if not path.is_file():
                continue

            problem = checksum.problem(path)
            if problem:
                lines.append(f"{path} is damaged: {problem}; delete it ({self._hint()})")
        return lines

    def reachable(self) -> bool:
        return self._archive.is_file() or reachable(self._origin.url)

    def download(self) -> None:
        try:
            fetch(self._origin.url, Checksum(self._origin.tgz_md5, "md5"), self._archive)
            self._unpack()
        except InputError as error:
            raise InputError([*error.problems, *self.missing()]) from None
        except (OSError, EOFError, tarfile.TarError) as error:
            problem = f"{self._archive} cannot be unpacked: {error}"
            raise InputError([problem, *self.missing()]) from None

    def _unpack(self) -> None:
        """Write the listed files and nothing else. A file gets its name once it is complete."""
        with tarfile.open(self._archive) as archive:
            for path in self._files():
                member = archive.extractfile(f"{self._origin.base_folder}/{path.name}")
                assert member is not None, path.name  # the archive's checksum says that it is there
                with replacing(path) as temporary, temporary.open("wb") as file:
                    shutil.copyfileobj(member, file)

    def info(self) -> DataInfo:
        return DataInfo(self._classes, _network_shape((3, 32, 32), self._resize))

    def class_counts(self) -> ClassCounts:
        # By number, because the names are in a file that may be missing.
        names = map(str, range(self._classes))
        return ClassCounts(dict.fromkeys(names, CIFAR_IMAGES // self._classes), has_test=True)

    def digest(self) -> None:
        return None

    def read(self) -> SplitData:
        train = self._origin(str(self._folder), train=True)
        test = self._origin(str(self._folder), train=False)

        return SplitData(
            train=_as_split(train.data, train.targets),
            test=_as_split(test.data, test.targets),
            class_names=list(train.classes),
        )


def image_source(config: DataConfig) -> ImageFolder | ImageTable:
    """Images of one's own: a folder of class folders, or a folder and a table (`data.table`)."""
    if config.table is not None:
        return ImageTable(config)
    return ImageFolder(config)


def _network_shape(shape: Shape, side: int | None) -> Shape:
    """The shape of an image [C, H, W] after it was resized to squares of `side` pixels.

    The prepared arrays keep their size. Images are resized when batches are made, after cropping,
    so at 224 pixels CIFAR takes 50 times less memory.
    """
    if not side:
        return shape
    return (shape[0], side, side)


def _as_split(images: np.ndarray, labels: list[int]) -> Split:
    channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return Split(channels_first, np.array(labels, dtype=np.int64))


_ENTRIES: dict[str, Callable[[DataConfig], Dataset]] = {
    "digits": Digits,
    "cifar10": partial(Cifar, classes=10),
    "cifar100": partial(Cifar, classes=100),
    "imagefolder": image_source,
    "text_tsv": TextTable,
}
DATASETS = Table("dataset", _ENTRIES, called_with=("config",))
