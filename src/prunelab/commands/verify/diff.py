"""What two files or folders do not share, named as closely as their format allows: by tensor, by key, by byte."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from prunelab.project.revisions import flatten

CHUNK = 2**20
SHOWN = 40  # characters of a value


def differences(one: Path, other: Path) -> Iterator[str]:
    """A line for everything that is not the same in both; none where they are the same to the byte."""
    if one.is_dir() and other.is_dir():
        for name in sorted({path.name for folder in (one, other) for path in folder.iterdir()}):
            yield from (
                f"{name}{'/' if ': ' in line else ': '}{line}"
                for line in differences(one / name, other / name)
            )
    elif not one.exists() or not other.exists():
        yield f"only in the {'second' if other.exists() else 'first'}"
    elif (first := _first_difference(one, other)) is not None:
        lines = None
        if read := READERS.get(one.suffix):
            try:
                lines = list(_by_name(read(one), read(other)))
            except (SafetensorError, ValueError, OSError, RecursionError):
                lines = None  # damaged: bytes are all that can be told
        yield from lines or [f"byte {first:,} is the first that differs, of {_sizes(one, other)}"]


def _by_name(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    for name in [*one, *(name for name in other if name not in one)]:
        if name not in one or name not in other:
            yield f"{name}: only in the {'second' if name in other else 'first'}"
        elif told := _values(one[name], other[name]):
            yield f"{name}: {told}"


def _values(one: Any, other: Any) -> str:
    """How two values differ; empty if they do not."""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return (
            ""
            if one == other and type(one) is type(other)
            else f"{_short(one)} and {_short(other)}"
        )
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return f"{_kind(one)} and {_kind(other)}"
    # By bits: a NaN is the same NaN, and 0 is not -0.
    bits = [
        tensor.contiguous().reshape(-1).view(torch.uint8).reshape(tensor.numel(), -1)
        for tensor in (one, other)
    ]
    differing = (bits[0] != bits[1]).any(1).reshape(one.shape)
    if not (count := int(differing.sum())):
        return ""
    largest = float((one[differing].double() - other[differing].double()).abs().max())
    return f"{count:,} of {one.numel():,} values differ, by {largest:.2g} at most"


def _kind(tensor: Tensor) -> str:
    return (
        f"{str(tensor.dtype).removeprefix('torch.')} {'x'.join(map(str, tensor.shape)) or 'scalar'}"
    )


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _tensors(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        about = {key: _parsed(text) for key, text in (file.metadata() or {}).items()}
        return flatten(about) | {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _array(path: Path) -> dict[str, Any]:
    return {"array": torch.from_numpy(np.load(path, allow_pickle=False))}


def _keys(path: Path) -> dict[str, Any]:
    return flatten(_by_place({"": json.loads(path.read_text())})[""])


def _by_place(content: Any) -> Any:
    """Lists as mappings from the place, so that one row's difference is not that of all."""
    if isinstance(content, list):
        return {str(place): _by_place(value) for place, value in enumerate(content)}
    return (
        {key: _by_place(value) for key, value in content.items()}
        if isinstance(content, dict)
        else content
    )


READERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    ".safetensors": _tensors,
    ".npy": _array,
    ".json": _keys,
}


def _first_difference(one: Path, other: Path) -> int | None:
    """The place of the first byte that differs; None if the files are the same."""
    place = 0
    with one.open("rb") as first, other.open("rb") as second:
        while True:
            blocks = first.read(CHUNK), second.read(CHUNK)
            if blocks[0] != blocks[1]:
                pairs = zip(*blocks, strict=False)
                return place + next(
                    (at for at, (a, b) in enumerate(pairs) if a != b), min(map(len, blocks))
                )
            if not blocks[0]:
                return None
            place += len(blocks[0])


def _sizes(one: Path, other: Path) -> str:
    sizes = [path.stat().st_size for path in (one, other)]
    return f"{sizes[0]:,}" if sizes[0] == sizes[1] else f"{sizes[0]:,} and {sizes[1]:,}"
