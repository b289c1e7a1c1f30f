"""Which configurations differ, as far as one test split and a few seeds can show."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np

from prunelab.statistics.intervals import half_width


def indistinguishable(right: Mapping[str, np.ndarray], resamples: int) -> dict[str, list[str]]:
    """For each configuration, the others whose accuracy cannot be distinguished from its own.

    `right` holds bool [seeds, images] by configuration: whether each network classified each image
    of the same test split correctly. Two configurations differ if the 95 % interval of their
    difference, paired by seed and image, excludes 0. `resamples` is for the bootstrap of one seed.

    There is no correction for the number of pairs: among twenty pairs that do not differ, about one
    will seem to.
    """
    similar: dict[str, list[str]] = {name: [] for name in right}

    for first, second in combinations(right, 2):
        difference = right[first].astype(float) - right[second]
        if abs(difference.mean()) <= half_width(difference, resamples=resamples):
            similar[first].append(second)
            similar[second].append(first)

    return similar
