"""Stratified splits. The test split is chosen before anything else and by nothing but the split seed."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from prunelab.data.dataset import Part, Shape, SplitData

CHUNK_BYTES = 64 * 2**20
CHUNK_ROWS = 4096  # each image that waits to be decoded takes a kilobyte, however small it is
NAMED = 5  # so many offenders are named; the rest is counted

AnyPart = TypeVar("AnyPart", bound=Part)


@dataclass(frozen=True)
class Split:
    """Images as uint8 [N, C, H, W], or token ids as int64 [N, L], and their classes as int64 [N], 0 to classes - 1.

    Inputs that are a memory map (np.memmap) stay on disk and are streamed. `size` is the (height, width) to which
    images are brought as batches are made; None leaves them as they are.
    """

    inputs: np.ndarray
    labels: np.ndarray
    size: tuple[int, int] | None = None

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
        return Split(self.inputs[indices], self.labels[indices], self.size)

    def chunks(self) -> Iterator[np.ndarray]:
        return _chunks(self.inputs)


def chunk_rows(shape: Shape, dtype: np.dtype) -> int:
    """How many examples of this shape make a chunk."""
    return max(1, min(CHUNK_ROWS, CHUNK_BYTES // (math.prod(shape) * dtype.itemsize)))


def three_way(
    published: SplitData, test_fraction: float, validation_fraction: float, seed: int
) -> dict[str, Part]:
    """Train, validation and test; official splits stay what they are.

    Raises:
        InputError: if a class would be missing from a split.
    """
    rest, test, validation = published.train, published.test, published.validation
    if test is None:
        rest, test = split_off(rest, test_fraction, seed)
    if validation is None:
        rest, validation = split_off(rest, validation_fraction, seed)
    return {"train": rest, "validation": validation, "test": test}


def split_off(part: AnyPart, fraction: float, seed: int) -> tuple[AnyPart, AnyPart]:
    """Part examples in two, class by class: (the rest, about `fraction` of every class); order is kept.

    Raises:
        InputError: if a class would be missing from either part.
    """
    from sklearn.model_selection import train_test_split

    from prunelab.core.errors import InputError

    indices = np.arange(len(part))
    try:
        rest, taken = train_test_split(
            indices, test_size=fraction, random_state=seed, stratify=part.labels
        )
    except ValueError as error:
        raise InputError(
            f"cannot split off {fraction:g} of {len(part)} examples: {error}"
        ) from None
    for half in (rest, taken):
        if missing := set(np.unique(part.labels).tolist()) - set(
            np.unique(part.labels[half]).tolist()
        ):
            raise InputError(
                f"splitting off {fraction:g} of {len(part)} examples leaves a part without classes {missing}"
            )
    return part.at(np.sort(rest)), part.at(np.sort(taken))


def too_few(counts: Mapping[str, int], needed: int) -> list[str]:
    """One line that names the classes with less than one example for each of the `needed` splits; none if all have."""
    small = [f"{name} ({count})" for name, count in counts.items() if count < needed]
    if not small:
        return []
    more = f" and {len(small) - NAMED} more" if len(small) > NAMED else ""
    return [
        f"data.source: {len(small)} of {len(counts)} classes have less than the {needed} examples that {needed} splits "
        f"need: {', '.join(small[:NAMED])}{more}"
    ]


def channel_moments(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of every channel, of pixels scaled to 0..1; `images` is uint8 [N, C, H, W]."""
    # By counting the 256 values: exact, and without a float copy of the whole data set.
    values = np.arange(256) / 255
    counts = np.zeros((images.shape[1], 256), np.int64)
    for chunk in _chunks(images):
        counts += np.stack(
            [np.bincount(pixels.ravel(), minlength=256) for pixels in chunk.swapaxes(0, 1)]
        )
    means = [float(np.average(values, weights=count)) for count in counts]
    variances = [
        float(np.average((values - mean) ** 2, weights=c))
        for c, mean in zip(counts, means, strict=True)
    ]
    return means, [variance**0.5 for variance in variances]


def _chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    rows = chunk_rows(array.shape[1:], array.dtype)
    for start in range(0, len(array), rows):
        yield array[start : start + rows]
