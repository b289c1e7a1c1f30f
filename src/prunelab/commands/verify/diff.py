"""What differs between two files or folders, as closely as their format allows.

Tensors and keys are named; of other files it is the first byte. This knows no pipeline.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from prunelab.core.mappings import flatten

CHUNK_BYTES = 2**20
MAX_VALUE_LENGTH = 40  # characters


def differences(first: Path, second: Path) -> Iterator[str]:
    """One line for each difference; none if both are the same to the byte."""
    if first.is_dir() and second.is_dir():
        yield from _folder_differences(first, second)
    elif not first.exists() or not second.exists():
        yield _only_in(first.exists())
    else:
        yield from _file_differences(first, second)


def _folder_differences(first: Path, second: Path) -> Iterator[str]:
    names = {path.name for path in [*first.iterdir(), *second.iterdir()]}
    for name in sorted(names):
        for line in differences(first / name, second / name):
            is_place_inside = ": " in line
            separator = ": "
            if is_place_inside:
                separator = "/"
            yield f"{name}{separator}{line}"


def _file_differences(first: Path, second: Path) -> Iterator[str]:
    offset = _first_difference(first, second)
    if offset is None:
        return

    lines = _named_differences(first, second)
    if lines:
        yield from lines
    else:
        sizes = _sizes(first, second)
        yield f"byte {offset:,} is the first that differs, of {sizes}"


def _named_differences(first: Path, second: Path) -> list[str]:
    """Differences by tensor or key; empty for formats without names, and for damaged files."""
    read = READERS.get(first.suffix)
    if read is None:
        return []
    try:
        return list(_by_name(read(first), read(second)))
    # The last two are for types of tensors that NumPy lacks.
    except (SafetensorError, ValueError, OSError, RecursionError, TypeError, AttributeError):
        return []


def _by_name(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[str]:
    added = [name for name in second if name not in first]
    for name in [*first, *added]:
        if name not in first or name not in second:
            yield f"{name}: {_only_in(name in first)}"
            continue

        difference = _value_difference(first[name], second[name])
        if difference:
            yield f"{name}: {difference}"


def _only_in(is_first: bool) -> str:
    if is_first:
        return "only in the first"
    return "only in the second"


def _value_difference(first: object, second: object) -> str:
    """How two values differ; empty if they do not."""
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return _array_difference(first, second)
    if first == second and type(first) is type(second):
        return ""
    return f"{_short(first)} and {_short(second)}"


def _array_difference(first: np.ndarray, second: np.ndarray) -> str:
    if (first.shape, first.dtype) != (second.shape, second.dtype):
        return f"{_kind(first)} and {_kind(second)}"

    # By bits: a NaN equals the same NaN, and 0 does not equal -0.
    differs = (_bytes(first) != _bytes(second)).any(axis=1).reshape(first.shape)
    count = int(differs.sum())
    if count == 0:
        return ""

    distances = first[differs].astype(np.float64) - second[differs].astype(np.float64)
    largest = float(np.abs(distances).max())
    return f"{count:,} of {first.size:,} values differ, by {largest:.2g} at most"


def _bytes(array: np.ndarray) -> np.ndarray:
    """The bytes of every value, uint8 [values, bytes of a value]."""
    values = np.ascontiguousarray(array).reshape(-1)
    return values.view(np.uint8).reshape(array.size, array.itemsize)


def _kind(array: np.ndarray) -> str:
    shape = "x".join(map(str, array.shape)) or "scalar"
    return f"{array.dtype} {shape}"


def _short(value: object) -> str:
    text = json.dumps(value, default=str)
    if len(text) <= MAX_VALUE_LENGTH:
        return text
    return f"{text[:MAX_VALUE_LENGTH]}…"


def _read_safetensors(path: Path) -> dict[str, Any]:
    """Metadata by dotted key, and tensors by name."""
    with safe_open(path, framework="np") as file:
        metadata = {key: _parsed(text) for key, text in (file.metadata() or {}).items()}
        names = list(file.keys())
        tensors = {name: file.get_tensor(name) for name in names}
    return flatten(metadata) | tensors


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _read_array(path: Path) -> dict[str, Any]:
    return {"array": np.load(path, allow_pickle=False)}


def _read_json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text())
    return flatten({"": _lists_as_mappings(content)}[""])


def _lists_as_mappings(content: Any) -> Any:
    """Lists become mappings by index, so that a change in one row is reported for that row only."""
    if isinstance(content, list):
        return {str(index): _lists_as_mappings(value) for index, value in enumerate(content)}
    if isinstance(content, dict):
        return {key: _lists_as_mappings(value) for key, value in content.items()}
    return content


READERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    ".safetensors": _read_safetensors,
    ".npy": _read_array,
    ".json": _read_json,
}


def _first_difference(first: Path, second: Path) -> int | None:
    """The offset of the first byte that differs; None if the files are the same."""
    offset = 0
    with first.open("rb") as first_file, second.open("rb") as second_file:
        while True:
            first_chunk = first_file.read(CHUNK_BYTES)
            second_chunk = second_file.read(CHUNK_BYTES)

            if first_chunk != second_chunk:
                return offset + _common_length(first_chunk, second_chunk)
            if not first_chunk:
                return None
            offset += len(first_chunk)


def _common_length(first: bytes, second: bytes) -> int:
    """How many bytes at the start are the same."""
    for index, (first_byte, second_byte) in enumerate(zip(first, second, strict=False)):
        if first_byte != second_byte:
            return index
    return min(len(first), len(second))


def _sizes(first: Path, second: Path) -> str:
    first_size = first.stat().st_size
    second_size = second.stat().st_size
    if first_size == second_size:
        return f"{first_size:,}"
    return f"{first_size:,} and {second_size:,}"
