"""The predictions of networks on the test split, kept for paired comparisons."""

import numpy as np

from prunelab.artifacts.arrays import load_arrays, save_arrays
from prunelab.core.errors import InputError
from prunelab.core.files import PathLike

DIMENSIONS = {"labels": 1, "before": 2, "after": 2, "losses": 2}


def save_predictions(path: PathLike, **arrays: np.ndarray) -> None:
    """Write the labels [images] and the predictions of all seeds, arrays [seeds, images].

    They are safetensors, because equal arrays must give equal bytes: NumPy's zip files differ
    between releases of Python.
    """
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    save_arrays(path, contiguous, metadata={})


def load_predictions(path: PathLike) -> dict[str, np.ndarray]:
    """The arrays that `save_predictions` wrote.

    Raises:
        InputError: if the file is missing, damaged, or holds other arrays.
    """
    hint = "`dvc checkout` or `dvc repro` restores it"
    arrays, _ = load_arrays(path, recovery_hint=hint)

    dimensions = {name: array.ndim for name, array in arrays.items()}
    if dimensions == DIMENSIONS and len({array.shape[-1] for array in arrays.values()}) == 1:
        return arrays

    shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
    raise InputError(
        f"{path} holds no predictions: {shapes}; expected labels [images], others [seeds, images]"
    )
