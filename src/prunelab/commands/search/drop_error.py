"""The standard error of a drop that few images and few seeds measured."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prunelab.statistics.intervals import NORMAL_QUANTILE, student_t


def standard_error(half_width: float, drops: Sequence[float], images: int) -> float:
    """The standard error of the mean of `drops`, one a seed, over seeds and images together.

    `half_width` is half the 95 % interval of that mean, as `statistics.intervals.half_width` has
    it. All are shares. The images' part is one image at least: where the answer to no image has
    changed, so few images could not have shown a smaller change.
    """
    over_seeds = seeds_half_width = 0.0
    if len(drops) > 1:
        values = np.array(drops)
        over_seeds = float(values.std(ddof=1)) / math.sqrt(len(drops))
        seeds_half_width = student_t(values)

    images_half_width = math.sqrt(max(0.0, half_width**2 - seeds_half_width**2))
    over_images = max(images_half_width / NORMAL_QUANTILE, 1 / images)
    return math.hypot(over_seeds, over_images)


def error_from_details(half_width: float, details: Mapping[str, Any]) -> float:
    """The standard error of the drop of an experiment, from its metrics/details/focus.json."""
    drops = [row["accuracy_drop"] for row in details["seeds"]]
    images = sum(row["support"] for row in details["classes"])
    return standard_error(half_width, drops, images)
