"""Prepared data: two arrays per split, <split>/inputs.npy and labels.npy, and dataset.json that describes them.

Plain .npy files, since those can be mapped into memory and are written piece by piece.
"""

import hashlib
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from prunelab.artifacts.files import read_json, replacing, sha256, write_json
from prunelab.data.protocol import Part
from prunelab.data.splits import Split
from prunelab.errors import Refused


def save_prepared(
    folder: Path, parts: Mapping[str, Part], describe: Callable[[dict[str, Split]], dict[str, Any]]
) -> None:
    """Write the arrays of every part, then dataset.json with what `describe` says of them and their SHA-256.

    `describe` gets the written splits as memory maps. Files take their names once all are complete.

    Raises:
        Refused: if the disk is too small, or with the problems of all parts that cannot be decoded.
    """
    _assert_room(folder, parts)
    hashes: dict[str, dict[str, str]] = {}
    written: dict[str, Split] = {}
    problems: list[str] = []
    with ExitStack() as stack:
        for name, part in parts.items():
            of_inputs, of_labels = _files(folder / name)
            inputs = stack.enter_context(replacing(of_inputs))
            try:
                digest = _write(inputs, _shown(name, part), (len(part), *part.shape), part.dtype)
            except Refused as refused:
                problems += [f"{name}: {problem}" for problem in refused.problems]
                continue
            labels = stack.enter_context(replacing(of_labels))  # after the inputs, whose errors would bear its name
            hashes[name] = {
                "inputs": digest,
                "labels": _write(labels, [part.labels], part.labels.shape, part.labels.dtype),
            }
            written[name] = Split(np.load(inputs, mmap_mode="r"), part.labels)
        if problems:
            raise Refused(problems)
        facts = describe(written)
    write_json(folder / "dataset.json", facts | {"sha256": hashes})


def load_split(folder: Path, name: str, memory_mb: int | None = None) -> Split:
    """Read one prepared split; inputs of more than `memory_mb` MiB stay on disk, as a memory map.

    Raises:
        Refused: if it is missing, or is not what dataset.json describes.
    """
    facts = read_json(folder / "dataset.json")
    expected = facts.get("sha256", {}).get(name) if isinstance(facts, dict) else None
    if not isinstance(expected, dict):
        raise Refused(f"{folder / 'dataset.json'} does not describe {name}; `dvc repro prepare` makes both")
    for path in _files(folder / name):
        if not path.is_file():
            raise Refused(f"{path} is missing; `dvc repro prepare` makes it")
        if (got := sha256(path)) != expected[path.stem]:
            raise Refused(
                f"{path} is damaged: SHA-256 {got}, expected {expected[path.stem]}; "
                f"`dvc checkout {folder / name}` restores it"
            )
    inputs, labels = _files(folder / name)
    on_disk = memory_mb is not None and inputs.stat().st_size > memory_mb * 2**20
    split = Split(np.load(inputs, mmap_mode="r" if on_disk else None), np.load(labels))
    shape = tuple(facts.get("shape", split.shape))
    resized = len(shape) == 3 and shape[1:] != split.shape[1:]
    return Split(split.inputs, split.labels, size=(shape[1], shape[2])) if resized else split


def _files(folder: Path) -> tuple[Path, Path]:
    return folder / "inputs.npy", folder / "labels.npy"


def _write(path: Path, chunks: Iterable[np.ndarray], shape: tuple[int, ...], dtype: np.dtype) -> str:
    """Write one .npy file from consecutive pieces; its SHA-256."""
    # Not through a memory map: a full disk would then be a crash (SIGBUS) in place of an error.
    header, digest = BytesIO(), hashlib.sha256()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    digest.update(header.getbuffer())
    with path.open("wb") as file:
        file.write(header.getbuffer())
        for chunk in chunks:
            content = np.ascontiguousarray(chunk, dtype).tobytes()
            digest.update(content)
            file.write(content)
    return digest.hexdigest()


def _shown(name: str, part: Part) -> Iterable[np.ndarray]:
    """The chunks of a part under a progress bar, where there is a terminal to show it on."""
    hidden = not sys.stderr.isatty()
    with tqdm(total=len(part), desc=f"prepare {name}", unit=" examples", disable=hidden, leave=False) as bar:
        for chunk in part.chunks():
            yield chunk
            bar.update(len(chunk))


def _assert_room(folder: Path, parts: Mapping[str, Part]) -> None:
    needed = sum(len(part) * int(np.prod(part.shape)) * part.dtype.itemsize for part in parts.values())
    existing = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise Refused(f"{folder} needs {needed / 1e9:,.1f} GB for the prepared arrays; {free / 1e9:,.1f} GB are free")
