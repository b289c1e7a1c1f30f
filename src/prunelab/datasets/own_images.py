"""OwnImages: what folders and tables of the user's own photographs have in common.

Where the files and the classes come from is the business of `imagefolder` and `imagetable`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np

from prunelab.core.errors import InputError
from prunelab.data.dataset import DataConfig, DataInfo, Shape
from prunelab.datasets.image_files import CommonSize, ImageFiles, common_size


class OwnImages(ABC):
    """RGB images of the user, all of one size in the end. Nothing of them can be downloaded."""

    def __init__(self, config: DataConfig) -> None:
        self._config = config
        self._root = config.place

    @abstractmethod
    def missing(self) -> list[str]:
        """What is not where the parameters say it is, a line each."""

    @abstractmethod
    def notes(self) -> list[str]:
        """What was left aside, a line each."""

    @abstractmethod
    def labelled_files(self) -> Iterator[tuple[str, str]]:
        """Every image's path and class."""

    @property
    @abstractmethod
    def _listed_problems(self) -> list[str]:
        """What is wrong with the names and classes of the images, a line each.

        Raises:
            InputError: if they cannot be listed.
        """

    @property
    @abstractmethod
    def _class_names(self) -> list[str]: ...

    @cached_property
    def _common_size(self) -> CommonSize:
        config = self._config
        paths = (path for path, _ in self.labelled_files())
        return common_size(
            paths, config.resize, turn=config.turns_images, unreadable=config.unreadable
        )

    def _image_files(self, paths: Sequence[str], labels: np.ndarray, shape: Shape) -> ImageFiles:
        """Images with the numbers of their classes, int64 [N], to be decoded to a shape."""
        config = self._config
        return ImageFiles(
            np.array(paths, dtype=object),
            labels,
            shape,
            config.resize,
            interpolation=config.interpolation,
        )

    def damaged(self) -> list[str]:
        if self.missing():
            return []
        try:
            problems = self._listed_problems
        except InputError as error:
            return error.problems
        return problems or self._common_size.problems

    def reachable(self) -> bool:
        return False

    def download(self) -> None:
        raise InputError(self.missing())

    def info(self) -> DataInfo:
        problems = self.missing() or self.damaged()
        if problems:
            raise InputError(problems)

        width, height = self._common_size.size
        return DataInfo(len(self._class_names), (3, height, width))
