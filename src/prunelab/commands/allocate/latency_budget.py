"""Allocate for a share of the latency: prune and measure one candidate after another."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prunelab.benchmarking.latency import Speedup
from prunelab.core.errors import InputError
from prunelab.pruning.allocation import Curve, allocate

TOLERANCE = 0.05  # relative to the latency that is to remain
MAX_CANDIDATES = 8  # after the first, which prunes every layer to the end of its curve

PrintLine = Callable[[str], None]
MeasureSpeedup = Callable[[Sequence[int]], Speedup]


def allocate_latency(
    curves: Sequence[Curve],
    measure_speedup: MeasureSpeedup,
    removed_latency: float,
    print_line: PrintLine,
) -> list[int]:
    """Return the widths that remove a share of the latency.

    The latency that remains is within 5 % of the target. The share of units removed is bisected,
    and `allocate` distributes each candidate over the layers.

    Args:
        curves: The curves of the layers.
        measure_speedup: Returns how many times faster the network is with these widths.
        removed_latency: The share to remove, above 0 and below 1.
        print_line: Prints a line for every measurement.

    Raises:
        InputError: if the curves end before so much latency is gone, a measurement is less precise
            than the tolerance, or no candidate is within it.
    """
    target = 1 - removed_latency
    measure = _CandidateMeter(curves, measure_speedup, print_line)

    low, high = 0.0, 1 - sum(curve.width(curve.removed[-1]) for curve in curves) / measure.total
    candidate = measure(high)
    if candidate.remaining > target and not _is_near(candidate.remaining, target):
        raise InputError(
            f"--latency {removed_latency}: at most {1 - candidate.remaining:.3f} can be removed, "
            "with every layer at the end of its curve. Measure larger sensitivity.ratios, or "
            "remove less."
        )

    share, nearest = high, candidate.remaining
    for _ in range(MAX_CANDIDATES):
        if _is_near(candidate.remaining, target):
            return candidate.widths
        if candidate.remaining > target:
            low = share
        else:
            high = share

        share = (low + high) / 2
        candidate = measure(share)
        nearest = min(nearest, candidate.remaining, key=lambda remaining: abs(remaining - target))

    if _is_near(candidate.remaining, target):
        return candidate.widths
    raise InputError(
        f"--latency {removed_latency} cannot be met within {TOLERANCE:.0%}: "
        f"the nearest is {1 - nearest:.3f}"
    )


@dataclass(frozen=True)
class _Candidate:
    """The units that every layer keeps, and the share of the latency that then remains."""

    widths: list[int]
    remaining: float


@dataclass(frozen=True)
class _CandidateMeter:
    """Allocates and measures a candidate."""

    curves: Sequence[Curve]
    measure_speedup: MeasureSpeedup
    print_line: PrintLine

    @property
    def total(self) -> int:
        """The number of units of all layers."""
        return sum(curve.units for curve in self.curves)

    def __call__(self, share: float) -> _Candidate:
        """Measure the network without this share of its units."""
        total = self.total
        widths = allocate(self.curves, lambda widths: sum(widths) / total, 1 - share)
        speedup = self.measure_speedup(widths)

        remaining, removed_units = 1 / speedup.value, 1 - sum(widths) / total
        self.print_line(
            f"{removed_units:.1%} of the units removed: speed-up {speedup.describe()}, "
            f"{remaining:.1%} of the latency remains"
        )

        if speedup.high / speedup.low > (1 + TOLERANCE) ** 2:
            raise InputError(
                f"the speed-up is only known to be between {speedup.low:.2f}x and "
                f"{speedup.high:.2f}x, but --latency needs ±{TOLERANCE:.0%}. Try a quieter "
                "machine, a larger --batch-size or more --rounds."
            )
        return _Candidate(widths, remaining)


def _is_near(remaining: float, target: float) -> bool:
    return abs(remaining / target - 1) <= TOLERANCE
