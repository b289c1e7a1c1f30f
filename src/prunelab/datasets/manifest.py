"""What dataset.json says of prepared data: what it was made from, its classes, sizes, moments and duplicates."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np

from prunelab.data.dataset import DataConfig, Part, Shape
from prunelab.data.splits import NAMED, Split, channel_moments

Twins = dict[tuple[str, str], list[tuple[int, int]]]  # of two splits, the rows that hold the same


def prepare_params(
    dataset: str,
    source: DataConfig,
    test_fraction: float,
    validation_fraction: float,
    split_seed: int,
) -> dict[str, Any]:
    """The parameters that prepared data depends on; data made with others is made anew."""
    wanted = {key: value for key, value in asdict(source).items() if key != "raw"}
    fractions = {
        "test_fraction": test_fraction,
        "validation_fraction": validation_fraction,
        "split_seed": split_seed,
    }
    return {"dataset": dataset, "asked": wanted | fractions}


def describe(
    class_names: list[str], shape: Shape, splits: dict[str, Split], twins: Twins
) -> dict[str, Any]:
    """Classes, the shape of one example as networks see it, counts; of images also the training split's moments.

    `duplicates` are how many examples of the second of two splits are in the first one too.
    """
    mean, std = channel_moments(splits["train"].inputs) if len(shape) == 3 else (None, None)
    return {
        "classes": class_names,
        "shape": list(shape),
        "mean": mean,
        "std": std,
        "counts": {name: len(part) for name, part in splits.items()},
        "counts_per_class": {
            name: np.bincount(part.labels, minlength=len(class_names)).tolist()
            for name, part in splits.items()
        },
        "duplicates": {
            f"{first}, {second}": len(pairs) for (first, second), pairs in twins.items()
        },
    }


def find_duplicates(splits: Mapping[str, Split]) -> Twins:
    """For every two splits (first, second), the rows of the second whose inputs are in the first, and where there."""
    marks = {name: _marks(part) for name, part in splits.items()}
    return {
        (first, second): [
            (known, row)
            for known, row in _meetings(marks[first], marks[second])
            if np.array_equal(splits[first].inputs[known], splits[second].inputs[row])
        ]
        for first, second in combinations(splits, 2)
    }


def _meetings(first: np.ndarray, second: np.ndarray) -> list[tuple[int, int]]:
    """For every value of the second that is in the first, its first place there and its own."""
    order = np.argsort(first, kind="stable")
    place = order[np.searchsorted(first, second, sorter=order).clip(max=len(first) - 1)]
    rows = np.flatnonzero(first[place] == second)
    return list(zip(place[rows].tolist(), rows.tolist(), strict=True))


def report_duplicates(twins: Twins, parts: Mapping[str, Part]) -> list[str]:
    """A line for every two splits that share examples: how many, and the first of them by name."""
    return [
        f"{len(pairs)} of {len(parts[second])} examples of {second} are in {first} too: "
        + ", ".join(
            f"{parts[second].name(row)} (as {parts[first].name(known)})"
            for known, row in pairs[:NAMED]
        )
        + (f" and {len(pairs) - NAMED} more" if len(pairs) > NAMED else "")
        for (first, second), pairs in twins.items()
        if pairs
    ]


def _marks(part: Split) -> np.ndarray:
    """A hash of every example's inputs, 8 bytes each: there may be a million of them."""
    each = (
        hashlib.blake2b(row.tobytes(), digest_size=8).digest()
        for chunk in part.chunks()
        for row in chunk
    )
    return np.frombuffer(b"".join(each), np.uint64)
