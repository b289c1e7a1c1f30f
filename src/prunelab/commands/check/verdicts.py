"""Checks that found nothing, remembered: an unchanged study is checked again without torch.

A verdict is a hash of all that it depends on. A file that is old, damaged or gone costs time and
changes no result.
"""

import hashlib
import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import prunelab
from prunelab.core import plugins
from prunelab.core.files import write
from prunelab.core.packages import installed_versions
from prunelab.core.source_code import folder_digest

FILE = Path(".prunelab/passed_checks")  # one verdict a line, the newest last
MAX_VERDICTS = 1000
PACKAGES = ("torch", "torchvision", "torch-pruning", "torchprofile", "transformers", "timm")

_waiting: list[str] | None = None  # the verdicts of a block of `remembering_later`


def verdict(check: str, *inputs: object) -> str:
    """The name of the verdict that a check finds nothing wrong with these inputs, plain JSON.

    It differs with the code of this package and of plugins, and with the versions of the packages
    that build networks.
    """
    parts = [check, inputs, _code(), folder_digest(plugins.current().folder), _versions()]
    content = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def has_passed(name: str) -> bool:
    """Whether the check of this verdict was made and found nothing."""
    return name in _read()


def remember(name: str) -> None:
    """Keep a verdict, unless the file cannot be written."""
    if _waiting is not None:
        _waiting.append(name)
        return

    names = [*_read(), name][-MAX_VERDICTS:]
    with suppress(OSError):
        write(FILE, "".join(f"{name}\n" for name in names).encode())


@contextmanager
def remembering_later() -> Iterator[None]:
    """Write the verdicts of a block once it has ended; none of them if it raises."""
    global _waiting
    _waiting = []
    try:
        yield
        names = _waiting
    finally:
        _waiting = None
    for name in names:
        remember(name)


def _read() -> list[str]:
    try:
        return FILE.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


@cache
def _code() -> str:
    """A hash of every source file of this package."""
    return folder_digest(Path(prunelab.__file__).parent)


@cache
def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | installed_versions(PACKAGES)
