"""Prepared data with hand-made arrays, described by a dataset.json whose hashes are right."""

import io
import json
from pathlib import Path

import numpy as np

from prunelab.core.files import sha256


def npy_bytes(array: np.ndarray) -> bytes:
    """The content of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


IMAGES = npy_bytes(np.zeros((4, 1, 2, 2), np.uint8))
LABELS = np.array([0, 1, 1, 0])


def write_prepared(
    folder: Path, inputs: bytes, labels: np.ndarray = LABELS, **changes: object
) -> Path:
    """Write a split `train` and its dataset.json, in which `changes` replace keys."""
    (folder / "train").mkdir(parents=True, exist_ok=True)
    (folder / "train/inputs.npy").write_bytes(inputs)
    np.save(folder / "train/labels.npy", labels)

    hashes = {
        "inputs": sha256(folder / "train/inputs.npy"),
        "labels": sha256(folder / "train/labels.npy"),
    }
    content = {
        "dataset": "any",
        "classes": ["a", "b"],
        "shape": [1, 2, 2],
        "mean": [0.5],
        "std": [0.2],
        "counts": {"train": 4},
        "sha256": {"train": hashes},
    }
    (folder / "dataset.json").write_text(json.dumps(content | changes))
    return folder
