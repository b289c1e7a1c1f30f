"""Tensors as safetensors files with a digest of their whole content: a flipped bit is noticed."""

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


def canonical_json(content: object) -> str:
    """JSON in one line that is the same to the byte for the same content."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write contiguous tensors on the CPU with metadata, which must be plain JSON.

    Equal tensors and metadata give equal bytes.

    Raises:
        InputError: if a value is not finite. An existing file then stays as it was.
    """
    _check_finite(path, tensors)
    sealed = canonical_json({**metadata, DIGEST_KEY: _digest(tensors, metadata)})
    write(path, safetensors.torch.save(dict(tensors), metadata={METADATA_KEY: sealed}))


def load_tensors(path: Path, *, recovery_hint: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the metadata that `save_tensors` wrote.

    Tensors are mapped from the file. No code from the file runs. Errors about a damaged file end
    with the `recovery_hint`.

    Raises:
        InputError: if the file is missing or damaged, or if a value is not finite.
    """
    if not path.is_file():  # reading a pipe, for example, would never end
        raise InputError(f"{path} is missing; `dvc repro` makes it")

    try:
        tensors, metadata = _read(path)
        expected = metadata.pop(DIGEST_KEY)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        raise InputError(
            f"{path} is no file of prunelab: it lacks the metadata key {METADATA_KEY!r} "
            "with a digest in it"
        ) from None
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is damaged: {reason}; {recovery_hint}") from None

    actual = _digest(tensors, metadata)
    if actual != expected:
        raise InputError(
            f"{path} is damaged: SHA-256 of its content {actual}, expected {expected}; "
            f"{recovery_hint}"
        )
    _check_finite(path, tensors)
    return tensors, metadata


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = {}
    with safe_open(path, framework="pt") as file:
        metadata = json.loads((file.metadata() or {})[METADATA_KEY])
        for name in file.keys():  # noqa: SIM118 (not a mapping)
            tensors[name] = file.get_tensor(name)
    return tensors, metadata


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """SHA-256 of the metadata and of the names, types, shapes and bytes of all tensors."""
    digest = hashlib.sha256(canonical_json(metadata).encode())
    for name, tensor in sorted(tensors.items()):
        header = [name, str(tensor.dtype), list(tensor.shape)]
        digest.update(canonical_json(header).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    names = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if not names:
        return

    more = ""
    if len(names) > 3:
        more = f" and {len(names) - 3} more"
    raise InputError(
        f"{path}: values of {', '.join(names[:3])}{more} are not finite, but NaN or infinite"
    )
