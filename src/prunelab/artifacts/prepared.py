"""Prepared data: <split>/inputs.npy and labels.npy for every split, and dataset.json about them.

The arrays are plain .npy files, because those can be mapped into memory and written in pieces.
"""

import hashlib
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field, PositiveInt
from tqdm import tqdm

from prunelab.artifacts.records import Strict, read_record
from prunelab.config.params import Interpolation
from prunelab.core.errors import InputError, one_line
from prunelab.core.files import PathLike, replacing, sha256, user_path, write_json
from prunelab.data.dataset import Examples, Shape
from prunelab.data.splits import Split


def _check_example_shape(shape: list[int]) -> list[int]:
    if len(shape) not in (1, 3):
        raise ValueError("expected one number (token ids) or three (channels, height, width)")
    return shape


class SplitHashes(Strict):
    """SHA-256 of the two files of a split."""

    inputs: str
    labels: str


class DatasetRecord(Strict):
    """The keys that dataset.json must have; it has others too."""

    dataset: str
    classes: Annotated[list[str], Field(min_length=1)]
    shape: Annotated[list[PositiveInt], AfterValidator(_check_example_shape)]
    counts: dict[str, PositiveInt]
    mean: list[float] | None
    std: list[float] | None
    interpolation: Interpolation = "bilinear"
    sha256: dict[str, SplitHashes]


def save_prepared(
    folder: PathLike,
    splits: Mapping[str, Examples],
    describe: Callable[[dict[str, Split]], dict[str, Any]],
) -> None:
    """Write the arrays of every split, then dataset.json: what `describe` returns, and the hashes.

    `describe` gets the written splits as memory maps. Files take their names once all are complete.

    Raises:
        InputError: if the disk is too small, or with the problems of all splits that cannot be
            decoded.
    """
    folder = user_path(folder)
    _check_disk_space(folder, splits)

    hashes: dict[str, dict[str, str]] = {}
    written: dict[str, Split] = {}
    problems: list[str] = []
    with ExitStack() as stack:
        for name, examples in splits.items():
            inputs_file, labels_file = _files(folder / name)
            inputs = stack.enter_context(replacing(inputs_file))
            shape = (len(examples), *examples.shape)
            try:
                inputs_hash = _write(inputs, _with_bar(name, examples), shape, examples.dtype)
            except InputError as error:
                problems += [f"{name}: {problem}" for problem in error.problems]
                continue

            # Opened after the inputs, because errors about the inputs would name this file.
            labels = stack.enter_context(replacing(labels_file))
            labels_hash = _write(
                labels, [examples.labels], examples.labels.shape, examples.labels.dtype
            )
            hashes[name] = {"inputs": inputs_hash, "labels": labels_hash}
            written[name] = Split(np.load(inputs, mmap_mode="r"), examples.labels)

        if problems:
            raise InputError(problems)
        data_info = describe(written)

    write_json(folder / "dataset.json", data_info | {"sha256": hashes})


def load_split(folder: PathLike, name: str, memory_mb: int | None = None) -> Split:
    """Read one prepared split; inputs of more than `memory_mb` MiB stay on disk, as a memory map.

    Raises:
        InputError: if it is missing, damaged, or contradicts dataset.json.
    """
    folder = user_path(folder)
    data_info = read_data_info(folder)
    _check_hashes(folder, name, data_info)

    inputs_file, labels_file = _files(folder / name)
    inputs, labels = _open_array(inputs_file), _open_array(labels_file)
    shape = tuple(data_info["shape"])
    problem = _find_mismatch(inputs, labels, shape, len(data_info["classes"]))
    if problem:
        raise InputError(
            f"{folder / name} is not what dataset.json describes: {problem}; "
            "`dvc repro prepare` makes both"
        )

    size = None
    if len(shape) == 3 and shape[1:] != inputs.shape[2:]:
        size = (shape[1], shape[2])
    if memory_mb is None or inputs.nbytes <= memory_mb * 2**20:
        inputs = np.array(inputs)
    return Split(inputs, np.array(labels), size, data_info.get("interpolation", "bilinear"))


def read_data_info(folder: PathLike) -> dict[str, Any]:
    """The content of dataset.json, which describes the splits in a folder.

    Raises:
        InputError: if it is missing, damaged, or lacks a key of `DatasetRecord`.
    """
    return read_record(user_path(folder) / "dataset.json", DatasetRecord)


def read_class_names(folder: PathLike) -> list[str]:
    """The class names of the splits in a folder, each in one line that is safe to show.

    Raises:
        InputError: as `read_data_info` does.
    """
    return [one_line(name) for name in read_data_info(folder)["classes"]]


def _files(folder: Path) -> tuple[Path, Path]:
    return folder / "inputs.npy", folder / "labels.npy"


def _check_hashes(folder: Path, name: str, data_info: dict[str, Any]) -> None:
    if name not in data_info["sha256"]:
        raise InputError(
            f"{folder / 'dataset.json'} does not describe {name}; `dvc repro prepare` makes both"
        )

    expected = data_info["sha256"][name]
    for path in _files(folder / name):
        if not path.is_file():
            raise InputError(f"{path} is missing; `dvc repro prepare` makes it")

        actual = sha256(path)
        if actual != expected[path.stem]:
            raise InputError(
                f"{path} is damaged: SHA-256 {actual}, expected {expected[path.stem]}; "
                f"`dvc checkout {folder / name}` restores it"
            )


def _open_array(path: Path) -> np.ndarray:
    # As a map in any case: a header that declares more than the file has is refused at once.
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # odd bytes lead NumPy's reader of headers to any exception
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is no array that can be read: {reason}") from None

    declared_size, size = array.offset + array.nbytes, path.stat().st_size
    if declared_size != size:
        raise InputError(f"{path} has {size:,} bytes, but its header declares {declared_size:,}")
    return array


def _find_mismatch(
    inputs: np.ndarray, labels: np.ndarray, shape: Shape, classes: int
) -> str | None:
    """How the arrays of a split contradict dataset.json, or None."""
    dtype = np.dtype(np.uint8 if len(shape) == 3 else np.int64)

    inputs_fit = (
        inputs.dtype == dtype
        and inputs.ndim == 1 + len(shape)
        and inputs.shape[1] == shape[0]
        and inputs.size > 0
    )
    if not inputs_fit:
        return f"inputs are {inputs.dtype} {inputs.shape}, expected {dtype} of examples {shape}"

    if labels.dtype != np.int64 or labels.shape != inputs.shape[:1]:
        return (
            f"labels are {labels.dtype} {labels.shape}, expected int64 ({len(inputs)},), "
            "one for each of the inputs"
        )
    if labels.min() < 0 or labels.max() >= classes:
        return f"labels go from {labels.min()} to {labels.max()}, but there are {classes} classes"
    if inputs.dtype == np.int64 and inputs.min() < 0:
        return f"there is a negative token id, {inputs.min()}"
    return None


def _write(
    path: Path, chunks: Iterable[np.ndarray], shape: tuple[int, ...], dtype: np.dtype
) -> str:
    """Write one .npy file from consecutive pieces, and return its SHA-256."""
    # Not through a memory map: a full disk would then be a crash (SIGBUS) instead of an error.
    buffer = BytesIO()
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
    }
    np.lib.format.write_array_header_1_0(buffer, header)

    digest = hashlib.sha256(buffer.getbuffer())
    with path.open("wb") as file:
        file.write(buffer.getbuffer())
        for chunk in chunks:
            content = np.ascontiguousarray(chunk, dtype).tobytes()
            digest.update(content)
            file.write(content)

    return digest.hexdigest()


def _with_bar(name: str, examples: Examples) -> Iterable[np.ndarray]:
    """The chunks of a split, with a progress bar on a terminal."""
    bar = tqdm(
        total=len(examples),
        desc=f"prepare {name}",
        unit=" examples",
        disable=not sys.stderr.isatty(),
        leave=False,
    )

    with bar:
        for chunk in examples.chunks():
            yield chunk
            bar.update(len(chunk))


def _check_disk_space(folder: Path, splits: Mapping[str, Examples]) -> None:
    needed = 0
    for examples in splits.values():
        values = len(examples) * int(np.prod(examples.shape))
        needed += values * examples.dtype.itemsize

    existing = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise InputError(
            f"{folder} needs {needed / 1e9:,.1f} GB for the prepared arrays; "
            f"{free / 1e9:,.1f} GB are free"
        )
