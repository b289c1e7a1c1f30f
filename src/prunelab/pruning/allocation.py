"""Ratios for every layer out of what each bears by itself, at a budget for the whole network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from prunelab.pruning.structured.budget import solve
from prunelab.pruning.structured.groups import target_width

HAIR = 1e-6  # of accuracy, by which a curve falls where it is flat: see `Curve.most`


@dataclass(frozen=True)
class Curve:
    """What a part of a network bears: accuracies [n] at the shares `removed` [n] of its units, from 0 on.

    Shares rise, accuracies do not; widths left are multiples of `round_to`.
    """

    name: str
    units: int
    removed: np.ndarray
    accuracies: np.ndarray
    round_to: int

    @classmethod
    def through(
        cls,
        name: str,
        units: int,
        dense: float,
        points: Sequence[tuple[float, float]],
        round_to: int = 1,
    ) -> "Curve":
        """A curve through the dense network and measured points (share removed, accuracy) in any order.

        Where accuracy rises with the share, as noise makes it, neighbours are averaged until it does not: of all
        curves that fall, the nearest by least squares (isotonic regression, Barlow et al. 1972).
        """
        from scipy.optimize import isotonic_regression

        removed, first = np.unique([0.0, *(share for share, _ in points)], return_index=True)
        accuracies = np.array([dense, *(accuracy for _, accuracy in points)])[first]
        return cls(
            name, units, removed, isotonic_regression(accuracies, increasing=False).x, round_to
        )

    def accuracy(self, share: float) -> float:
        """Accuracy once this share is gone, on the straight line between what was measured."""
        return float(np.interp(share, self.removed, self.accuracies))

    def most(self, threshold: float) -> float:
        """The largest share up to which accuracy stays at the threshold; never beyond what was measured.

        Of a flat stretch, where shares cost nothing, the threshold must still pick one, and the same for all curves
        that are flat there: hence the hair.
        """
        return float(np.interp(-threshold, HAIR * self.removed - self.accuracies, self.removed))

    def width(self, share: float) -> int:
        """How many units a cut by this share leaves."""
        return target_width(self.units, share, self.round_to)


def allocate(
    curves: Sequence[Curve], kept: Callable[[Sequence[int]], float], target: float
) -> list[int]:
    """How many units every part keeps, so that the network keeps the share `target` of its cost.

    One accuracy is sought that all parts may fall to, each by itself: every part loses the largest share at which its
    own curve stays there, and the accuracy is bisected until what is left costs the target (minimising the worst
    part's loss; the rule of Li et al. 2017, who set the shares by hand, made automatic). Parts that bear more lose
    more, and parts with the same curve the same. That several parts are cut at once is not looked at.

    `kept` gives the share of the cost for widths, and rises with each of them. What is nearest to the target is
    returned, however far: where curves end, nothing more is taken.
    """
    dense = max(curve.accuracies[0] for curve in curves)
    lowest = min(curve.accuracies[-1] for curve in curves) - 2 * HAIR

    def widths(fallen: float) -> list[int]:
        threshold = dense - fallen * (dense - lowest)
        return [curve.width(curve.most(threshold)) for curve in curves]

    return solve(widths, kept, target)
