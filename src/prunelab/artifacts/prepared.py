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
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field, PositiveInt
from tqdm import tqdm

from prunelab.artifacts.records import Strict, read_record
from prunelab.core.errors import InputError, one_line
from prunelab.core.files import replacing, sha256, write_json
from prunelab.data.dataset import Examples, Shape
from prunelab.data.splits import Split


def _of_examples(shape: list[int]) -> list[int]:
    if len(shape) not in (1, 3):
        raise ValueError("needed are one number (token ids) or three (channels, height, width)")
    return shape


class Hashes(Strict):
    """SHA-256 of the two files of a split."""

    inputs: str
    labels: str


class Described(Strict):
    """What dataset.json must say; there is more in it."""

    dataset: str
    classes: Annotated[list[str], Field(min_length=1)]
    shape: Annotated[list[PositiveInt], AfterValidator(_of_examples)]
    counts: dict[str, PositiveInt]
    mean: list[float] | None
    std: list[float] | None
    sha256: dict[str, Hashes]


def save_prepared(
    folder: Path,
    parts: Mapping[str, Examples],
    describe: Callable[[dict[str, Split]], dict[str, Any]],
) -> None:
    """Write the arrays of every part, then dataset.json with what `describe` says of them and their SHA-256.

    `describe` gets the written splits as memory maps. Files take their names once all are complete.

    Raises:
        InputError: if the disk is too small, or with the problems of all parts that cannot be decoded.
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
            except InputError as refused:
                problems += [f"{name}: {problem}" for problem in refused.problems]
                continue
            labels = stack.enter_context(
                replacing(of_labels)
            )  # after the inputs, whose errors would bear its name
            hashes[name] = {
                "inputs": digest,
                "labels": _write(labels, [part.labels], part.labels.shape, part.labels.dtype),
            }
            written[name] = Split(np.load(inputs, mmap_mode="r"), part.labels)
        if problems:
            raise InputError(problems)
        facts = describe(written)
    write_json(folder / "dataset.json", facts | {"sha256": hashes})


def load_split(folder: Path, name: str, memory_mb: int | None = None) -> Split:
    """Read one prepared split; inputs of more than `memory_mb` MiB stay on disk, as a memory map.

    Raises:
        InputError: if it is missing, damaged, or is not what dataset.json describes.
    """
    facts = read_data_info(folder)
    if name not in facts["sha256"]:
        raise InputError(
            f"{folder / 'dataset.json'} does not describe {name}; `dvc repro prepare` makes both"
        )
    expected = facts["sha256"][name]
    for path in _files(folder / name):
        if not path.is_file():
            raise InputError(f"{path} is missing; `dvc repro prepare` makes it")
        if (got := sha256(path)) != expected[path.stem]:
            raise InputError(
                f"{path} is damaged: SHA-256 {got}, expected {expected[path.stem]}; "
                f"`dvc checkout {folder / name}` restores it"
            )
    inputs, labels = (_mapped(path) for path in _files(folder / name))
    shape = tuple(facts["shape"])
    if problem := _misfit(inputs, labels, shape, len(facts["classes"])):
        raise InputError(
            f"{folder / name} is not what dataset.json describes: {problem}; `dvc repro prepare` makes both"
        )
    on_disk = memory_mb is not None and inputs.nbytes > memory_mb * 2**20
    resized = len(shape) == 3 and shape[1:] != inputs.shape[2:]
    return Split(
        inputs if on_disk else np.array(inputs),
        np.array(labels),
        size=(shape[1], shape[2]) if resized else None,
    )


def read_data_info(folder: Path) -> dict[str, Any]:
    """What dataset.json says of the splits in a folder.

    Raises:
        InputError: if it is missing, damaged, or lacks what every description has.
    """
    data_info: dict[str, Any] = read_record(folder / "dataset.json", Described)
    return data_info


def read_class_names(folder: Path) -> list[str]:
    """The class names of the splits in a folder, each in one line that is safe to show.

    Raises:
        InputError: as `read_data_info` does.
    """
    return [one_line(name) for name in read_data_info(folder)["classes"]]


def _mapped(path: Path) -> np.ndarray:
    # A map, whatever is done with it then: a header that speaks of more than the file has is refused at once.
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # NumPy's reader of headers raises whatever odd bytes lead it to
        raise InputError(
            f"{path} is no array that can be read: {' '.join(str(error).split())}"
        ) from None
    if (told := array.offset + array.nbytes) != (size := path.stat().st_size):
        raise InputError(f"{path} has {size:,} bytes, but its header speaks of {told:,}")
    return array


def _misfit(inputs: np.ndarray, labels: np.ndarray, shape: Shape, classes: int) -> str | None:
    """What contradicts the description of a split in its arrays."""
    dtype = np.dtype(np.uint8 if len(shape) == 3 else np.int64)
    if (
        inputs.dtype != dtype
        or inputs.ndim != 1 + len(shape)
        or inputs.shape[1] != shape[0]
        or not inputs.size
    ):
        return f"inputs are {inputs.dtype} {inputs.shape}, needed: {dtype} of examples {shape}"
    if labels.dtype != np.int64 or labels.shape != inputs.shape[:1]:
        return f"labels are {labels.dtype} {labels.shape}, needed: int64 ({len(inputs)},), one for each of the inputs"
    if labels.min() < 0 or labels.max() >= classes:
        return f"labels go from {labels.min()} to {labels.max()}, but there are {classes} classes"
    if inputs.dtype == np.int64 and inputs.min() < 0:
        return f"there is a negative token id, {inputs.min()}"
    return None


def _files(folder: Path) -> tuple[Path, Path]:
    return folder / "inputs.npy", folder / "labels.npy"


def _write(
    path: Path, chunks: Iterable[np.ndarray], shape: tuple[int, ...], dtype: np.dtype
) -> str:
    """Write one .npy file from consecutive pieces; its SHA-256."""
    # Not through a memory map: a full disk would then be a crash (SIGBUS) in place of an error.
    header, digest = BytesIO(), hashlib.sha256()
    described = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
    }
    np.lib.format.write_array_header_1_0(header, described)
    digest.update(header.getbuffer())
    with path.open("wb") as file:
        file.write(header.getbuffer())
        for chunk in chunks:
            content = np.ascontiguousarray(chunk, dtype).tobytes()
            digest.update(content)
            file.write(content)
    return digest.hexdigest()


def _shown(name: str, part: Examples) -> Iterable[np.ndarray]:
    """The chunks of a part under a progress bar, where there is a terminal to show it on."""
    hidden = not sys.stderr.isatty()
    with tqdm(
        total=len(part), desc=f"prepare {name}", unit=" examples", disable=hidden, leave=False
    ) as bar:
        for chunk in part.chunks():
            yield chunk
            bar.update(len(chunk))


def _assert_room(folder: Path, parts: Mapping[str, Examples]) -> None:
    needed = sum(
        len(part) * int(np.prod(part.shape)) * part.dtype.itemsize for part in parts.values()
    )
    existing = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise InputError(
            f"{folder} needs {needed / 1e9:,.1f} GB for the prepared arrays; {free / 1e9:,.1f} GB are free"
        )
