"""Files of `torch.save`, read without running any code in them, and only if they are intact."""

import re
from argparse import Namespace
from collections import defaultdict
from datetime import date, datetime, time, timedelta, timezone
from pathlib import Path, PosixPath, PurePosixPath
from pickle import UnpicklingError
from types import SimpleNamespace
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import numpy as np
import torch

from prunelab.core.files import PathLike, user_path

# How torch names the class or function that a file asks for and may not have.
DISALLOWED = re.compile(r"GLOBAL (\S+) was not an allowed global")

# What people save beside weights: settings, dates, and scalars of NumPy. To make them runs no code
# of the file. Numbers of NumPy name the class of their type.
MAKE_SCALAR = np.float64(0).__reduce__()[0]
HARMLESS: list[Any] = [
    *(Namespace, SimpleNamespace, defaultdict, PosixPath, PurePosixPath),
    *(date, datetime, time, timedelta, timezone),
    *(MAKE_SCALAR, (MAKE_SCALAR, "numpy.core.multiarray.scalar")),  # the latter as NumPy 1 calls it
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("e", "f", "d", "b", "h", "i", "l", "B", "?")),
]


class DisallowedClassError(UnpicklingError):
    """A file holds an object of a class whose code would have to run.

    Attributes:
        name: the class or function, with its module.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def load_pickled(path: PathLike) -> Any:
    """Read tensors, plain containers and what is HARMLESS, onto the CPU.

    Raises:
        DisallowedClassError: if the file holds an object of another class.
        UnpicklingError: if it holds anything else that would run code.
        Exception: whatever Python and torch raise for damaged files.
    """
    path = user_path(path)
    if is_zipfile(path):  # files of torch before 1.6 are not, and have no checksums
        _check_archive(path)

    try:
        # By its path, torch would take a file for safetensors that is merely called so.
        with path.open("rb") as file, torch.serialization.safe_globals(HARMLESS):
            return torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        named = DISALLOWED.search(str(error))
        if named is None:
            raise
        raise DisallowedClassError(named[1]) from None


def _check_archive(path: Path) -> None:
    with ZipFile(path) as archive:
        # Torch never writes compressed members, but would unpack them into any amount of memory.
        content_size = sum(member.file_size for member in archive.infolist())
        if content_size > path.stat().st_size:
            raise BadZipFile("it declares more content than it has")

        damaged = archive.testzip()  # torch itself compares no checksums
        if damaged:
            raise BadZipFile(f"{damaged} in it has another checksum than when it was written")
