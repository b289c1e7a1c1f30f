"""Stratified splits. The test split is chosen before anything else and by nothing but the split seed."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Split:
    """Images as uint8 [N, C, H, W], or token ids as int64 [N, L], and their classes as int64 [N], 0 to classes - 1."""

    inputs: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, indices: np.ndarray) -> "Split":
        return Split(self.inputs[indices], self.labels[indices])


def split_off(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Part a split in two, class by class: (the rest, about `fraction` of every class); order is kept.

    Raises:
        Refused: if a class would be missing from either part.
    """
    from sklearn.model_selection import train_test_split

    from prunelab.errors import Refused

    indices = np.arange(len(split))
    try:
        rest, taken = train_test_split(indices, test_size=fraction, random_state=seed, stratify=split.labels)
    except ValueError as error:
        raise Refused(f"cannot split off {fraction:g} of {len(split)} images: {error}") from None
    for part in (rest, taken):
        if missing := set(np.unique(split.labels)) - set(np.unique(split.labels[part])):
            raise Refused(f"splitting off {fraction:g} of {len(split)} images leaves a part without classes {missing}")
    return split.at(np.sort(rest)), split.at(np.sort(taken))


def channel_moments(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of every channel, of pixels scaled to 0..1; `images` is uint8 [N, C, H, W]."""
    # By counting the 256 values: exact, and without a float copy of the whole data set.
    values = np.arange(256) / 255
    counts = [np.bincount(images[:, channel].ravel(), minlength=256) for channel in range(images.shape[1])]
    means = [float(np.average(values, weights=count)) for count in counts]
    variances = [float(np.average((values - mean) ** 2, weights=c)) for c, mean in zip(counts, means, strict=True)]
    return means, [variance**0.5 for variance in variances]
