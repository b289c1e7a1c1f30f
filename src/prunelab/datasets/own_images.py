"""OwnImages: what folders and tables of the user's own photographs have in common.

Where the files and the classes come from is the business of `imagefolder` and `imagetable`.
"""

from abc import ABC, abstractmethod

from prunelab.core.errors import InputError
from prunelab.data.dataset import DataInfo
from prunelab.datasets.image_files import CommonSize


class OwnImages(ABC):
    """RGB images of the user, all of one size in the end. Nothing of them can be downloaded."""

    @abstractmethod
    def missing(self) -> list[str]:
        """What is not where the parameters say it is, a line each."""

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

    @property
    @abstractmethod
    def _common_size(self) -> CommonSize: ...

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
