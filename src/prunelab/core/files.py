"""Writing so that a kill loses nothing, and JSON that is the same to the byte for the same content."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from prunelab.core.errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Hand out a temporary name beside the file `path`, and rename it to `path` if all went well.

    Raises:
        OSError: naming `path` if it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):  # where nothing can be written, nothing can be removed
            partial.unlink()
        # A full disk names no file, and others name one that nobody has heard of.
        if isinstance(error, OSError) and str(error.filename) in ("None", str(partial)):
            error.filename, error.filename2 = str(path), None
        raise


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; of formats with writers of their own too, whose errors name neither."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_json(path: Path, content: Any) -> None:
    """Write JSON that is the same to the byte for the same content: sorted keys, floats to 6 decimals, no NaN."""
    try:
        text = json.dumps(_rounded(content), indent=1, sort_keys=True, allow_nan=False)
    except ValueError:
        raise InputError(
            f"{path}: a number is not finite, so nothing was written: {content}"
        ) from None
    write(path, f"{text}\n".encode())


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path} is missing; `dvc repro` makes it") from None
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is damaged: {error}; `dvc checkout {path}` or `dvc repro` restores it"
        ) from None


def _rounded(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _rounded(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_rounded(value) for value in content]
    return (
        round(content, 6) + 0.0 if isinstance(content, float) else content
    )  # + 0.0 turns -0.0 into 0.0


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
