"""Files of `torch.save`, read without running any code in them, and only if they are intact."""

from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import torch


def load_pickled(path: Path) -> Any:
    """Read tensors and plain containers, onto the CPU.

    Raises:
        UnpicklingError: if the file holds anything else.
        Exception: whatever Python and torch raise for damaged files.
    """
    if is_zipfile(path):  # files of torch before 1.6 are not, and have no checksums
        _check_archive(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _check_archive(path: Path) -> None:
    with ZipFile(path) as archive:
        # Torch never writes compressed members, but would unpack them into any amount of memory.
        content_size = sum(member.file_size for member in archive.infolist())
        if content_size > path.stat().st_size:
            raise BadZipFile("it declares more content than it has")

        damaged = archive.testzip()  # torch itself compares no checksums
        if damaged:
            raise BadZipFile(f"{damaged} in it has another checksum than when it was written")
