"""The contents of dataset.json: where prepared data comes from, and what is in it.

It records parameters, classes, sizes, moments and duplicates. `artifacts.prepared` writes it.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from prunelab.config.params import Interpolation, Params
from prunelab.core.text import name_list
from prunelab.data.dataset import DataConfig, Examples, Shape
from prunelab.data.splits import Split, channel_moments

# Of two splits (first, second): pairs of rows, one of each, with the same input.
Duplicates = dict[tuple[str, str], list[tuple[int, int]]]
# Of every split: a hash of each example's input, uint64 [N].
Hashes = dict[str, np.ndarray]


def data_config(params: Params, raw: Path) -> DataConfig:
    """The configuration of the data set that the parameters name; `raw` is for downloads."""
    return DataConfig(
        raw,
        path=params.data.source,
        resize=params.data.resize,
        text_column=params.data.text_column,
        label_column=params.data.label_column,
        tokens=params.data.tokens,
        weights=params.weights,
        table=params.data.table,
        file_column=params.data.file_column,
        split_column=params.data.split_column,
        exif=params.data.exif,
        conflicts=params.data.conflicts,
        unreadable=params.data.unreadable,
        interpolation=params.data.interpolation,
    )


def interpolation_record(interpolation: Interpolation) -> dict[str, str]:
    """What dataset.json says about resizing: nothing, if it is as in data that were always so."""
    if interpolation == "bilinear":
        return {}
    return {"interpolation": interpolation}


def prepare_params(params: Params) -> dict[str, Any]:
    """The parameters that prepared data depends on. If one changes, data is prepared again."""
    asked = asdict(data_config(params, Path()))
    asked.pop("raw")  # the place of downloads changes nothing
    asked |= interpolation_record(asked.pop("interpolation"))

    asked |= {
        "test_fraction": params.data.test_fraction,
        "validation_fraction": params.data.validation_fraction,
        "split_seed": params.data.split_seed,
    }
    return {"dataset": params.dataset, "asked": asked}


def describe(
    class_names: list[str], shape: Shape, splits: dict[str, Split], duplicates: Duplicates
) -> dict[str, Any]:
    """What dataset.json says about the prepared splits.

    Args:
        class_names: the classes, in the order of their numbers
        shape: shape of one example as networks see it
        splits: the prepared splits by name
        duplicates: as `find_duplicates` returns them

    Returns:
        Classes, shape and counts. `mean` and `std` are the moments of the training images, null for
        texts. `duplicates` counts, for every two splits, the examples of the second that are in the
        first.
    """
    mean, std = None, None
    if len(shape) == 3:
        mean, std = channel_moments(splits["train"].inputs)

    counts, class_counts = {}, {}
    for name, split in splits.items():
        counts[name] = len(split)
        class_counts[name] = np.bincount(split.labels, minlength=len(class_names)).tolist()

    duplicate_counts = {}
    for (first, second), pairs in duplicates.items():
        duplicate_counts[f"{first}, {second}"] = len(pairs)

    return {
        "classes": class_names,
        "shape": list(shape),
        "mean": mean,
        "std": std,
        "counts": counts,
        "counts_per_class": class_counts,
        "duplicates": duplicate_counts,
    }


def hash_inputs(splits: Mapping[str, Split]) -> Hashes:
    """The hashes of all inputs of each split."""
    return {name: _hashes(split) for name, split in splits.items()}


def find_duplicates(splits: Mapping[str, Split], hashes: Hashes) -> Duplicates:
    """For every two splits, the rows of the second whose inputs are also in the first.

    Args:
        splits: the splits by name
        hashes: as `hash_inputs` returns them

    Returns:
        For (first, second): pairs of the first matching row there, and the row in the second.
    """
    duplicates: Duplicates = {}
    for first, second in combinations(splits, 2):
        duplicates[first, second] = []
        for first_row, second_row in _matches(hashes[first], hashes[second]):
            first_input = splits[first].inputs[first_row]
            second_input = splits[second].inputs[second_row]
            if np.array_equal(first_input, second_input):  # hashes may collide
                duplicates[first, second].append((first_row, second_row))
    return duplicates


def _hashes(split: Split) -> np.ndarray:
    """A hash of every example's input, uint64 [N]: 8 bytes each, because N may be a million."""

    def digests() -> Iterator[bytes]:
        for chunk in split.chunks():
            for row in chunk:
                yield hashlib.blake2b(row.tobytes(), digest_size=8).digest()

    return np.frombuffer(b"".join(digests()), np.uint64)


def _matches(first: np.ndarray, second: np.ndarray) -> list[tuple[int, int]]:
    """For every value of `second` that is in `first`: its first index there, and its own index."""
    order = np.argsort(first, kind="stable")
    insertion = np.searchsorted(first, second, sorter=order).clip(max=len(first) - 1)
    candidates = order[insertion]

    matching = np.flatnonzero(first[candidates] == second)
    return list(zip(candidates[matching].tolist(), matching.tolist(), strict=True))


def report_duplicates(duplicates: Duplicates, parts: Mapping[str, Examples]) -> list[str]:
    """A line for every two splits that share examples: how many, and the first of them by name."""
    lines = []
    for (first, second), pairs in duplicates.items():
        if not pairs:
            continue

        names = []
        for first_row, second_row in pairs:
            first_name = parts[first].name(first_row)
            names.append(f"{parts[second].name(second_row)} (as {first_name})")
        lines.append(
            f"{len(pairs)} of {len(parts[second])} examples of {second} are in {first} too: "
            f"{name_list(names)}"
        )
    return lines
