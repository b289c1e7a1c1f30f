"""Prepared data: one .npz per split, and dataset.json that describes them."""

from pathlib import Path
from typing import Any

import numpy as np

from prunelab.artifacts.files import read_json, replacing, sha256, write_json
from prunelab.data.splits import Split
from prunelab.errors import Refused


def save_prepared(folder: Path, splits: dict[str, Split], facts: dict[str, Any]) -> None:
    """Write one .npz per split, and dataset.json with the facts and the files' SHA-256."""
    hashes = {}
    for name, split in splits.items():
        with replacing(folder / f"{name}.npz") as partial:
            with partial.open("wb") as file:  # a file object: given a name, savez would append .npz to it
                np.savez(file, inputs=split.inputs, labels=split.labels)
            hashes[name] = sha256(partial)
    write_json(folder / "dataset.json", facts | {"sha256": hashes})


def load_split(folder: Path, name: str) -> Split:
    """Read one prepared split.

    Raises:
        Refused: if it is missing, or is not the file that dataset.json describes.
    """
    path, facts = folder / f"{name}.npz", read_json(folder / "dataset.json")
    expected = facts.get("sha256", {}).get(name) if isinstance(facts, dict) else None
    if expected is None:
        raise Refused(f"{folder / 'dataset.json'} does not describe {name}.npz; `dvc repro prepare` makes both")
    if not path.is_file():
        raise Refused(f"{path} is missing; `dvc repro prepare` makes it")
    if (got := sha256(path)) != expected:
        raise Refused(f"{path} is damaged: SHA-256 {got}, expected {expected}; `dvc checkout {path}` restores it")
    with np.load(path, allow_pickle=False) as arrays:
        return Split(arrays["inputs"], arrays["labels"])
