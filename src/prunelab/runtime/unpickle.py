"""Files of `torch.save`, read without running anything in them, and only if what was written is still there."""

from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import torch


def load_pickled(path: Path) -> Any:
    """Tensors and plain containers, on the CPU.

    Raises whatever Python and torch do for damaged files, UnpicklingError for one that holds anything else.
    """
    if is_zipfile(path):  # others are of torch before 1.6, which kept no checksums
        with ZipFile(path) as archive:
            # Torch unpacks what is compressed, which it never writes, into any amount of memory.
            if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
                raise BadZipFile("it declares more content than it has")
            if damaged := archive.testzip():  # torch itself compares no checksums
                raise BadZipFile(f"{damaged} in it has another checksum than when it was written")
    return torch.load(path, map_location="cpu", weights_only=True)
