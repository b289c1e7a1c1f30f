"""Torch's tensors as sealed safetensors files."""

from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from prunelab.artifacts.sealed import Values, check_finite, read_sealed, sealed_metadata
from prunelab.core.files import PathLike, write


def save_tensors(
    path: PathLike, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> None:
    """Write contiguous tensors on the CPU with metadata, which must be plain JSON.

    Equal tensors and metadata give equal bytes.

    Raises:
        InputError: if a value is not finite. An existing file then stays as it was.
    """
    check_finite(path, _are_finite(tensors))
    values = {name: _values(tensor) for name, tensor in tensors.items()}
    content = safetensors.torch.save(dict(tensors), metadata=sealed_metadata(metadata, values))
    write(path, content)


def load_tensors(path: PathLike, *, recovery_hint: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the metadata that `save_tensors` wrote.

    Tensors are mapped from the file. No code from the file runs. Errors about a damaged file end
    with the `recovery_hint`.

    Raises:
        InputError: if the file is missing or damaged, or if a value is not finite.
    """
    tensors, metadata = read_sealed(path, "pt", _values, recovery_hint=recovery_hint)
    check_finite(path, _are_finite(tensors))
    return tensors, metadata


def _values(tensor: Tensor) -> Values:
    content = tensor.reshape(-1).view(torch.uint8).numpy().data
    return Values(str(tensor.dtype), tensor.shape, content)


def _are_finite(tensors: Mapping[str, Tensor]) -> dict[str, bool]:
    return {name: bool(tensor.isfinite().all()) for name, tensor in tensors.items()}
