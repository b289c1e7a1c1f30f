"""Which configurations differ, as far as one test split and a few seeds can tell."""

from collections.abc import Mapping

import numpy as np

from prunelab.statistics.intervals import half_width


def indistinguishable(right: Mapping[str, np.ndarray], resamples: int) -> dict[str, list[str]]:
    """Which configurations no one can tell apart: for each, those whose paired difference may well be none.

    `right` [seeds, images] by configuration: whether each network was right on each image of the same test split. Two
    differ only where the 95 % interval of their difference, paired by seed and image, leaves out 0. Nothing is done
    about how many pairs are looked at: among twenty that do not differ, one will seem to.
    """
    found: dict[str, list[str]] = {name: [] for name in right}
    names = list(right)
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            difference = right[one].astype(float) - right[other]
            if abs(difference.mean()) <= half_width(difference, resamples=resamples):
                found[one].append(other)
                found[other].append(one)
    return found
