"""Find a ratio for every layer from sensitivity curves, so that the network meets a budget."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from prunelab.pruning.structured.budget import solve
from prunelab.pruning.structured.groups import target_width

# Flat stretches of a curve fall by so much accuracy, over the whole range of shares. A threshold
# then meets every flat stretch at one share, the same for all curves: see `Curve.largest_share_at`.
TIE_BREAK = 1e-6


@dataclass(frozen=True)
class Curve:
    """The accuracy of the network when one layer (or one set of coupled layers) alone is pruned.

    `removed` [n] are shares of the layer's `units`; they rise from 0, the dense network, to below
    1. `accuracies` [n] are those at these shares, 0 to 1; they never rise. The layer keeps a
    multiple of `round_to` units.
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
        """The falling curve that is nearest, by least squares, to measured points.

        Measured accuracies may rise with the share removed, because of noise. Isotonic regression
        averages such neighbours until no accuracy rises.

        Barlow et al. 1972, Statistical Inference under Order Restrictions.

        Args:
            name: the name of the layer.
            units: how many units it has.
            dense: the accuracy of the dense network, 0 to 1.
            points: (share removed, accuracy), in any order.
            round_to: the layer keeps a multiple of this number of units.
        """
        from scipy.optimize import isotonic_regression

        shares = [0.0]
        measured = [dense]
        for share, accuracy in points:
            shares.append(share)
            measured.append(accuracy)

        removed, first_rows = np.unique(shares, return_index=True)
        accuracies = np.array(measured)[first_rows]
        falling = isotonic_regression(accuracies, increasing=False).x
        return cls(name, units, removed, falling, round_to)

    def accuracy(self, share: float) -> float:
        """The accuracy when this share of the units is removed, interpolated linearly."""
        return float(np.interp(share, self.removed, self.accuracies))

    def largest_share_at(self, threshold: float) -> float:
        """The largest share that can be removed while the accuracy stays at the threshold.

        It is never larger than the largest share that was measured. Along a flat stretch, which
        every threshold at its accuracy allows, `TIE_BREAK` makes the accuracy fall slightly.
        """
        losses = TIE_BREAK * self.removed - self.accuracies
        return float(np.interp(-threshold, losses, self.removed))

    def width(self, share: float) -> int:
        """How many units stay when this share is removed."""
        return target_width(self.units, share, self.round_to)


def allocate(
    curves: Sequence[Curve], share_kept: Callable[[Sequence[int]], float], target_share: float
) -> list[int]:
    """How many units every layer keeps, so that the network keeps a share of its dense cost.

    All layers follow one accuracy threshold. Every layer loses the largest share at which its own
    curve stays at the threshold, and the threshold is bisected until the cost meets the target.
    This minimises the loss of the worst layer: layers with flat curves lose more units, and layers
    with equal curves lose equal shares. The curves are those of single layers, so what it costs to
    prune several layers at once is not taken into account.

    This automates Li et al. 2017, Pruning Filters for Efficient ConvNets, who choose the share of
    every layer by hand from such curves.

    Args:
        curves: one for every layer.
        share_kept: gives the share of the dense cost that widths keep; it must not fall when a
            width rises.
        target_share: the share to keep, 0 to 1.

    Returns:
        The widths whose cost is nearest to the target, in the order of the curves. They keep more
        than the target if the curves end before it: no layer loses more than was measured.
    """
    highest = max(curve.accuracies[0] for curve in curves)
    lowest = min(curve.accuracies[-1] for curve in curves) - 2 * TIE_BREAK

    def widths_at(fall: float) -> list[int]:
        threshold = highest - fall * (highest - lowest)
        return [curve.width(curve.largest_share_at(threshold)) for curve in curves]

    return solve(widths_at, share_kept, target_share)
