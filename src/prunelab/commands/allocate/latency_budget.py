"""The allocation that takes a share of the latency away: pruned for real and measured, candidate by candidate."""

from collections.abc import Callable, Sequence

from prunelab.benchmark.latency import Ratio
from prunelab.core.errors import InputError
from prunelab.pruning.allocation import Curve, allocate

TOLERANCE = 0.05  # of the latency wanted
CANDIDATES = 8


def allocate_latency(
    curves: Sequence[Curve],
    measure: Callable[[Sequence[int]], Ratio],
    wanted: float,
    tell: Callable[[str], None],
) -> list[int]:
    """Widths that `measure` finds to have the share `wanted` of the latency less, within 5 % of what is to be left.

    The share of the units that goes is bisected, each share allocated as `allocate` does; `tell` hears of every
    measurement.

    Raises:
        InputError: if the curves end before so much latency is gone, the interval of a measurement is wider than the
            tolerance, or no candidate comes near, since latency goes by steps.
    """
    units = [curve.units for curve in curves]

    def candidate(share: float) -> tuple[list[int], float]:
        widths = allocate(curves, lambda widths: sum(widths) / sum(units), 1 - share)
        found = measure(widths)
        left, gone = 1 / found.value, 1 - sum(widths) / sum(units)
        tell(
            f"{gone:.1%} of the units gone: speed-up {found.told()}, {left:.1%} of the latency left"
        )
        if found.high / found.low > (1 + TOLERANCE) ** 2:
            raise InputError(
                f"latency cannot be allocated here and now: a gain was measured between {found.low:.2f}x and "
                f"{found.high:.2f}x, and needed is ±{TOLERANCE:.0%}; try a quieter machine, a larger --batch-size or "
                "more --rounds"
            )
        return widths, left

    def near(left: float) -> bool:
        return abs(left / (1 - wanted) - 1) <= TOLERANCE

    low, high = 0.0, 1 - sum(curve.width(curve.removed[-1]) for curve in curves) / sum(units)
    widths, left = candidate(high)
    if left > 1 - wanted and not near(left):
        raise InputError(
            f"--latency {wanted}: the most that goes is {1 - left:.3f}, with every layer at the end of its curve; "
            "measure larger sensitivity.ratios, or ask for less"
        )
    share, nearest = high, left
    for _ in range(CANDIDATES):
        if near(left):
            return widths
        low, high = (share, high) if left > 1 - wanted else (low, share)
        share = (low + high) / 2
        widths, left = candidate(share)
        nearest = min(nearest, left, key=lambda share: abs(share - (1 - wanted)))
    if near(left):
        return widths
    raise InputError(
        f"--latency {wanted} cannot be met within {TOLERANCE:.0%}: the nearest is {1 - nearest:.3f}"
    )
