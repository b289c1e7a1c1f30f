"""Splits in memory, and stratified splitting.

The test split is chosen first, and only the split seed decides which examples it gets.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from prunelab.config.params import Interpolation
from prunelab.core.errors import InputError
from prunelab.core.text import name_list
from prunelab.data.dataset import Examples, Shape, SplitData
from prunelab.data.split_sizes import share_out, split_problems

CHUNK_BYTES = 64 * 2**20
MAX_CHUNK_ROWS = 4096  # every image that waits to be decoded takes a kilobyte, however small it is

AnyExamples = TypeVar("AnyExamples", bound=Examples)


@dataclass(frozen=True)
class Split:
    """Examples in memory or in a memory map.

    Args:
        inputs: images, uint8 [N, C, H, W], or token ids, int64 [N, L]; an np.memmap stays on disk
        labels: classes, int64 [N], 0 to classes - 1
        size: height and width that images are resized to when batches are made; None keeps theirs
        interpolation: how they are resized then
    """

    inputs: np.ndarray
    labels: np.ndarray
    size: tuple[int, int] | None = None
    interpolation: Interpolation = "bilinear"

    @property
    def shape(self) -> Shape:
        return self.inputs.shape[1:]

    @property
    def dtype(self) -> np.dtype:
        return self.inputs.dtype

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, row: int) -> str:
        return f"example {row}"

    def at(self, indices: np.ndarray) -> "Split":
        return replace(self, inputs=self.inputs[indices], labels=self.labels[indices])

    def chunks(self) -> Iterator[np.ndarray]:
        return _chunks(self.inputs)


def chunk_rows(shape: Shape, dtype: np.dtype) -> int:
    """How many examples of this shape make a chunk: at least one, at most 4096 or 64 MiB."""
    example_bytes = math.prod(shape) * dtype.itemsize
    return max(1, min(MAX_CHUNK_ROWS, CHUNK_BYTES // example_bytes))


def three_way_split(
    published: SplitData, test_fraction: float, validation_fraction: float, seed: int
) -> dict[str, Examples]:
    """Train, validation and test. Official splits stay as they are; absent ones come from train.

    Raises:
        InputError: if a class would be missing from a split, with what would fit.
    """
    problems = split_problems(published.class_counts(), test_fraction, validation_fraction, seed)
    if problems:
        raise InputError(problems)

    train, test, validation = published.train, published.test, published.validation
    if test is None:
        train, test = split_off(train, test_fraction, seed)
    if validation is None:
        train, validation = split_off(train, validation_fraction, seed)

    return {"train": train, "validation": validation, "test": test}


def split_off(examples: AnyExamples, fraction: float, seed: int) -> tuple[AnyExamples, AnyExamples]:
    """Split off about `fraction` of every class. Both results keep the order of the examples.

    The draw is that of scikit-learn's `train_test_split` with `stratify`. Here it needs NumPy alone
    and does not change with a release of scikit-learn, which would take two seconds to import.

    Returns:
        The remaining examples, and those split off.

    Raises:
        InputError: if a class would be missing from either of them.
    """
    class_rows = _rows_by_class(examples.labels)
    counts = np.array([len(rows) for rows in class_rows])
    random = np.random.RandomState(seed)

    rest_counts, taken_counts = share_out(counts, fraction, random)
    absent = np.flatnonzero((rest_counts == 0) | (taken_counts == 0))
    if len(absent):
        classes = {int(examples.labels[class_rows[index][0]]) for index in absent}
        raise InputError(
            f"cannot split off {fraction:g} of {len(examples)} examples: "
            f"one of the splits would lack the classes {classes}"
        )

    rest, taken = [], []
    for rows, rest_count in zip(class_rows, rest_counts, strict=True):
        shuffled = rows[random.permutation(len(rows))]
        rest.append(shuffled[:rest_count])
        taken.append(shuffled[rest_count:])
    return (
        examples.at(np.sort(np.concatenate(rest))),
        examples.at(np.sort(np.concatenate(taken))),
    )


def _rows_by_class(labels: np.ndarray) -> list[np.ndarray]:
    """The row numbers of every class that has examples, in order."""
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order])) + 1
    return np.split(order, starts)


def class_size_problems(counts: Mapping[str, int], needed: int) -> list[str]:
    """At most one line: the classes with fewer examples than `needed`, the number of splits."""
    small = [f"{name} ({count})" for name, count in counts.items() if count < needed]
    if not small:
        return []

    return [
        f"data.source: {len(small)} of {len(counts)} classes have fewer than the {needed} examples "
        f"that {needed} splits need: {name_list(small)}"
    ]


def channel_moments(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, of pixels scaled to 0..1.

    Args:
        images: uint8 [N, C, H, W]
    """
    # Counting the 256 pixel values is exact, and needs no copy of the whole data set in floats.
    values = np.arange(256) / 255
    counts = np.zeros((images.shape[1], 256), np.int64)
    for chunk in _chunks(images):
        for channel, pixels in enumerate(chunk.swapaxes(0, 1)):
            counts[channel] += np.bincount(pixels.ravel(), minlength=256)

    means, deviations = [], []
    for channel_counts in counts:
        mean = float(np.average(values, weights=channel_counts))
        variance = float(np.average((values - mean) ** 2, weights=channel_counts))
        means.append(mean)
        deviations.append(variance**0.5)
    return means, deviations


def _chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    rows = chunk_rows(array.shape[1:], array.dtype)
    for start in range(0, len(array), rows):
        yield array[start : start + rows]
