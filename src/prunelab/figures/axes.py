"""Axes that several pictures share: costs on a log scale, and the dense network's level."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from prunelab.report.style import DENSE_COLOUR

MAX_TICKS = 7


def dense_line(axis: Axes, accuracy: float, half_width: float) -> None:
    """The accuracy of the dense network as a dashed line, with its 95 % band."""
    low, high = accuracy - half_width, min(1.0, accuracy + half_width)
    axis.axhline(accuracy, color=DENSE_COLOUR, linestyle="--", linewidth=1)
    axis.axhspan(low, high, color=DENSE_COLOUR, alpha=0.08, lw=0)


def log_axis(axis: Axes, values: Sequence[float], tick_text: Callable[[float], str]) -> None:
    """A log scale that falls to the right, with round ticks and a little room at both ends.

    `values` are sorted; `tick_text` prints one value.
    """
    low, high = values[0] / 1.25, values[-1] * 1.25
    axis.set_xscale("log")
    axis.set_xlim(high, low)

    axis.xaxis.set_major_locator(FixedLocator(_round_ticks(low, high)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_text(value)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_minor_formatter(NullFormatter())


def _round_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten from `low` to `high`; fewer digits if that is too many."""
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))

    ticks: list[float] = []
    for digits in ((1, 2, 5), (1, 3), (1,)):
        ticks = []
        for decade in range(first, last + 1):
            for digit in digits:
                tick = digit * 10.0**decade
                if low <= tick <= high:
                    ticks.append(tick)

        if len(ticks) <= MAX_TICKS:
            break
    return ticks


def short_number(value: float) -> str:
    """A number as a tick shows it: three digits and a unit, for example 1.25M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"
