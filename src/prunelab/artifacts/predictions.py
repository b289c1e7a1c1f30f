"""What networks said about the test split, kept for paired comparisons."""

from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from prunelab.artifacts.files import write
from prunelab.errors import Refused


def save_predictions(path: Path, **arrays: np.ndarray) -> None:
    """Write the labels [images] and what the networks of all seeds said, arrays [seeds, images].

    As safetensors, since equal arrays must give equal bytes: the zip files of NumPy differ between releases of Python.
    """
    write(path, safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))


def load_predictions(path: Path) -> dict[str, np.ndarray]:
    try:
        arrays = safetensors.numpy.load_file(path)
        return {name: arrays[name] for name in ("labels", "before", "after", "losses")}
    except FileNotFoundError:
        raise Refused(f"{path} is missing; `dvc repro evaluate_base` makes it") from None
    except (SafetensorError, OSError, KeyError) as error:
        raise Refused(f"{path} is damaged: {error}; `dvc checkout` or `dvc repro` restores it") from None
