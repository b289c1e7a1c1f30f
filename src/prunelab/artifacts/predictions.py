"""What networks said about the test split, kept for paired comparisons."""

import zipfile
from pathlib import Path

import numpy as np

from prunelab.artifacts.files import replacing
from prunelab.errors import Refused


def save_predictions(path: Path, **arrays: np.ndarray) -> None:
    """Write the labels [images] and what the networks of all seeds said, arrays [seeds, images]."""
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def load_predictions(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in ("labels", "before", "after", "losses")}
    except FileNotFoundError:
        raise Refused(f"{path} is missing; `dvc repro evaluate_base` makes it") from None
    except (ValueError, OSError, zipfile.BadZipFile, EOFError, KeyError) as error:
        raise Refused(f"{path} is damaged: {error}; `dvc checkout` or `dvc repro` restores it") from None
