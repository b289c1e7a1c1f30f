"""The predictions of networks on the test split, kept for paired comparisons."""

from pathlib import Path

import numpy as np
import torch

from prunelab.artifacts.tensors import load_tensors, save_tensors
from prunelab.core.errors import InputError

DIMENSIONS = {"labels": 1, "before": 2, "after": 2, "losses": 2}


def save_predictions(path: Path, **arrays: np.ndarray) -> None:
    """Write the labels [images] and the predictions of all seeds, arrays [seeds, images].

    They are safetensors, because equal arrays must give equal bytes: NumPy's zip files differ
    between releases of Python.
    """
    tensors = {}
    for name, array in arrays.items():
        # A copy, because a dense network's `before` is its `after` and a file has no shared memory.
        tensors[name] = torch.from_numpy(np.array(array, order="C"))
    save_tensors(path, tensors, metadata={})


def load_predictions(path: Path) -> dict[str, np.ndarray]:
    """The arrays that `save_predictions` wrote.

    Raises:
        InputError: if the file is missing, damaged, or holds other arrays.
    """
    hint = "`dvc checkout` or `dvc repro` restores it"
    tensors, _ = load_tensors(path, recovery_hint=hint)
    arrays = {name: tensor.numpy().copy() for name, tensor in tensors.items()}

    dimensions = {name: array.ndim for name, array in arrays.items()}
    if dimensions == DIMENSIONS and len({array.shape[-1] for array in arrays.values()}) == 1:
        return arrays

    shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
    raise InputError(
        f"{path} holds no predictions: {shapes}; expected labels [images], others [seeds, images]"
    )
