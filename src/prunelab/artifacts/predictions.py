"""What networks said about the test split, kept for paired comparisons."""

from pathlib import Path

import numpy as np
import torch

from prunelab.artifacts.tensors import load_tensors, save_tensors
from prunelab.core.errors import InputError

DIMENSIONS = {"labels": 1, "before": 2, "after": 2, "losses": 2}


def save_predictions(path: Path, **arrays: np.ndarray) -> None:
    """Write the labels [images] and what the networks of all seeds said, arrays [seeds, images].

    As safetensors, since equal arrays must give equal bytes: the zip files of NumPy differ between releases of Python.
    """
    # Copied, since the dense network's `before` is its `after`, and a file has no shared memory.
    save_tensors(
        path,
        {name: torch.from_numpy(np.array(array, order="C")) for name, array in arrays.items()},
        {},
    )


def load_predictions(path: Path) -> dict[str, np.ndarray]:
    """What `save_predictions` wrote.

    Raises:
        InputError: if the file is missing, damaged, or holds other arrays.
    """
    tensors, _ = load_tensors(path, way_back="`dvc checkout` or `dvc repro` restores it")
    arrays = {name: tensor.numpy().copy() for name, tensor in tensors.items()}
    if {name: array.ndim for name, array in arrays.items()} != DIMENSIONS or len(
        {array.shape[-1] for array in arrays.values()}
    ) != 1:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise InputError(
            f"{path} holds no predictions: {shapes}; needed: labels [images], others [seeds, images]"
        )
    return arrays
