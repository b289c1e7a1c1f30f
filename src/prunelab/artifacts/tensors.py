"""Tensors as safetensors files that carry a digest of all they say, so that a single flipped bit is noticed."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from prunelab.core.errors import InputError
from prunelab.core.files import write

METADATA_KEY = "prunelab"  # the only one: safetensors writes several in no fixed order
DIGEST_KEY = "sha256"


def canonical(told: Any) -> str:
    """JSON that is the same to the byte for the same content, in one line."""
    return json.dumps(told, sort_keys=True, separators=(",", ":"))


def save_tensors(path: Path, tensors: Mapping[str, Tensor], told: Mapping[str, Any]) -> None:
    """Write contiguous tensors on the CPU and what is `told` of them, plain JSON; equal ones give equal bytes.

    Raises:
        InputError: if a value is not finite; then what was there stays.
    """
    _assert_finite(path, tensors)
    sealed = canonical({**told, DIGEST_KEY: _digest(tensors, told)})
    write(path, safetensors.torch.save(dict(tensors), metadata={METADATA_KEY: sealed}))


def load_tensors(path: Path, *, way_back: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save_tensors` wrote: the tensors, mapped from the file, and what was told of them; runs no code from it.

    Raises:
        InputError: if the file is missing, is not what was written, or holds values that are not finite.
    """
    if not path.is_file():  # a pipe, say, would never end
        raise InputError(f"{path} is missing; `dvc repro` makes it")
    try:
        with safe_open(path, framework="pt") as file:
            told = json.loads((file.metadata() or {})[METADATA_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        found = told.pop(DIGEST_KEY)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        raise InputError(
            f"{path} is no file of prunelab: it lacks the metadata key {METADATA_KEY!r} with a digest in it"
        ) from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged: {' '.join(str(error).split())}; {way_back}") from None
    if found != (expected := _digest(tensors, told)):
        raise InputError(
            f"{path} is damaged: SHA-256 of its content {expected}, expected {found}; {way_back}"
        )
    _assert_finite(path, tensors)
    return tensors, told


def _digest(tensors: Mapping[str, Tensor], told: Mapping[str, Any]) -> str:
    """SHA-256 of what is told, and of the names, types, shapes and bytes of all tensors."""
    digest = hashlib.sha256(canonical(told).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(canonical([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _assert_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    if odd := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
        raise InputError(
            f"{path}: values of {', '.join(odd[:3])}{more} are not finite, but NaN or infinite"
        )
