"""NumPy's arrays as sealed safetensors files, written and read without torch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy

from prunelab.artifacts.sealed import Values, check_finite, read_sealed, sealed_metadata
from prunelab.core.files import PathLike, write


def save_arrays(
    path: PathLike, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]
) -> None:
    """Write contiguous arrays with metadata, which must be plain JSON.

    Equal arrays and metadata give equal bytes, those of equal tensors of torch.

    Raises:
        InputError: if a value is not finite. An existing file then stays as it was.
    """
    check_finite(path, _are_finite(arrays))
    values = {name: _values(array) for name, array in arrays.items()}
    content = safetensors.numpy.save(dict(arrays), metadata=sealed_metadata(metadata, values))
    write(path, content)


def load_arrays(
    path: PathLike, *, recovery_hint: str
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the metadata that `save_arrays` wrote.

    Errors about a damaged file end with the `recovery_hint`.

    Raises:
        InputError: if the file is missing or damaged, or if a value is not finite.
    """
    arrays, metadata = read_sealed(path, "np", _values, recovery_hint=recovery_hint)
    check_finite(path, _are_finite(arrays))
    return arrays, metadata


def _values(array: np.ndarray) -> Values:
    return Values(f"torch.{array.dtype}", array.shape, array.reshape(-1).view(np.uint8).data)


def _are_finite(arrays: Mapping[str, np.ndarray]) -> dict[str, bool]:
    return {name: bool(np.isfinite(array).all()) for name, array in arrays.items()}
