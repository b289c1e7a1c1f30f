"""Files that survive a kill, and JSON that is the same to the byte for the same content."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from prunelab.core.errors import InputError

JSON_DECIMALS = 6

PathLike = str | os.PathLike[str]  # what a parameter, an option or a caller names a file by


def user_path(path: PathLike) -> Path:
    """The path that a parameter, an option or a caller names, with ~ as the home folder.

    ~name is the home folder of that user, and stays as it is if there is no such user.
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111 (Path's raises for unknown users)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write to a temporary file beside `path`; it takes the name `path` only if all went well.

    Raises:
        OSError: with `path` as its file name, if it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)

    try:
        yield partial
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):  # a disk that cannot be written cannot remove either
            partial.unlink()

        # A full disk names no file, and other errors name the temporary one.
        if isinstance(error, OSError) and str(error.filename) in ("None", str(partial)):
            error.filename, error.filename2 = str(path), None
        raise


def write(path: PathLike, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OSError: with `path` as its file name, if it cannot be written.
    """
    with replacing(user_path(path)) as partial:
        partial.write_bytes(content)


def write_json(path: PathLike, content: Any) -> None:
    """Write JSON with sorted keys and floats rounded to 6 decimals.

    Raises:
        InputError: if a number is not finite.
        OSError: if the file cannot be written.
    """
    try:
        encoded = json_bytes(content)
    except ValueError:
        message = f"{path}: a number is not finite, so nothing was written: {content}"
        raise InputError(message) from None

    write(path, encoded)


def json_bytes(content: Any) -> bytes:
    """What `write_json` writes.

    Raises:
        ValueError: if a number is not finite.
    """
    text = json.dumps(json_form(content), indent=1, sort_keys=True, allow_nan=False)
    return f"{text}\n".encode()


def read_json(path: PathLike) -> Any:
    """The content of a JSON file that a stage wrote.

    Raises:
        InputError: if it is missing or damaged.
    """
    try:
        return parse_json(user_path(path).read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path} is missing; `dvc repro` makes it") from None
    except InputError as error:
        raise InputError(
            f"{path} is damaged: it {error}; `dvc checkout {path}` or `dvc repro` restores it"
        ) from None


def parse_json(text: str | bytes) -> Any:
    """The content of a JSON text, which may come from anybody.

    Raises:
        InputError: if it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise InputError("cannot be read as JSON: nested too deeply") from None
    except ValueError as error:
        raise InputError(f"cannot be read as JSON: {error}") from None


def sha256(path: PathLike) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with user_path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_form(content: Any) -> Any:
    """The content as `write_json` writes it: floats rounded, tuples as lists."""
    if isinstance(content, dict):
        return {key: json_form(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [json_form(value) for value in content]
    if isinstance(content, float):
        return round(content, JSON_DECIMALS) + 0.0  # + 0.0 turns -0.0 into 0.0
    return content
