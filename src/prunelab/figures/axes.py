"""Axes that several pictures share: costs on a log scale, and the dense network's level."""

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from prunelab.report.style import DENSE_COLOUR
from prunelab.report.ticks import round_ticks


def dense_line(axis: Axes, accuracy: float, half_width: float) -> None:
    """The accuracy of the dense network as a dashed line, with its 95 % band."""
    low, high = accuracy - half_width, min(1.0, accuracy + half_width)
    axis.axhline(accuracy, color=DENSE_COLOUR, linestyle="--", linewidth=1)
    axis.axhspan(low, high, color=DENSE_COLOUR, alpha=0.08, lw=0)


def percent_ticks(axis: Axis) -> None:
    """Ticks of shares in per cent, with as many digits as each needs.

    Whole per cents would give several ticks of a short axis the same name.
    """
    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.6g}%"))


def log_axis(axis: Axes, values: Sequence[float], tick_text: Callable[[float], str]) -> None:
    """A log scale that falls to the right, with round ticks and a little room at both ends.

    `values` are sorted; `tick_text` prints one value.
    """
    low, high = values[0] / 1.25, values[-1] * 1.25
    axis.set_xscale("log")
    axis.set_xlim(high, low)

    axis.xaxis.set_major_locator(FixedLocator(round_ticks(low, high)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_text(value)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_minor_formatter(NullFormatter())
