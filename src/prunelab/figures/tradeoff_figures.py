"""The trade-off as pictures: accuracy against what a network still costs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from prunelab.figures.axes import dense_line, log_axis, percent_ticks
from prunelab.figures.line_names import (
    LineEnd,
    legend_below,
    legend_height_inch,
    name_ends,
    names_fit,
)
from prunelab.report.labels import COSTS, DENSE, KEPT, STATES
from prunelab.report.series import MethodCurve, method_curves
from prunelab.report.style import DENSE_COLOUR, line_style, marker
from prunelab.report.ticks import short_number

Row = Mapping[str, Any]
Cost = tuple[str, str, Callable[[float], str]]  # its key, its label, and how to print a tick

SIZE_INCH = (12.0, 4.4)  # without a legend
AXIS_HEIGHT_INCH = 3.3  # about, of a panel
FONT_SIZE, OVERVIEW_FONT_SIZE = 8.5, 8.0
OVERVIEW_INCH = (8, 10 / 3)  # 1200 by 500 pixels
OVERVIEW_AXIS_INCH = 2.2


def _percent_tick(share: float) -> str:
    return f"{100 * share:.3g}"


AGAINST: list[Cost] = [
    ("macs", COSTS["macs"], short_number),
    ("params_nonzero", COSTS["params_nonzero"], short_number),
    ("kept", KEPT, _percent_tick),
]
OVERVIEW_AGAINST: list[Cost] = [
    ("macs", "MACs per input", short_number),
    ("size_compressed_bytes", "bytes of the weights, compressed", short_number),
]


def tradeoff(rows: Sequence[Row], dense: Row, title: str, accuracy: str) -> Figure:
    """Accuracy against what remains, a panel per cost. Bands and bars are 95 % intervals.

    Args:
        rows: Those of plots/tradeoff.json.
        dense: The metrics of the dense network, with its costs.
        title: The title of the picture.
        accuracy: The key of the state that is shown, one of `STATES`.
    """
    curves = method_curves(rows)
    names = [*(curve.method for curve in curves), DENSE]
    have_room = names_fit(len(names), AXIS_HEIGHT_INCH, FONT_SIZE)

    width, height = SIZE_INCH
    if not have_room:
        height += legend_height_inch(names, width)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, len(AGAINST), sharey=True)

    _panels(list(axes), curves, dense, AGAINST, accuracy)
    axes[0].set_ylabel(f"test accuracy\n{STATES[accuracy]}")

    if have_room:
        ends = _line_ends(curves, dense, AGAINST[-1][0], accuracy)
        name_ends(axes[-1], ends, AXIS_HEIGHT_INCH, FONT_SIZE)
    else:
        legend_below(figure, _method_legend(curves))
    figure.suptitle(title)
    return figure


def overview(rows: Sequence[Row], dense: Row, title: str) -> Figure:
    """The trade-off after fine-tuning in small, for the top of a page: 1200 by 500 pixels."""
    figure = Figure(figsize=OVERVIEW_INCH, layout="constrained")
    axes = figure.subplots(1, len(OVERVIEW_AGAINST), sharey=True)
    curves = method_curves(rows)

    _panels(list(axes), curves, dense, OVERVIEW_AGAINST, "accuracy")
    axes[0].set_ylabel("test accuracy")
    for axis in axes:
        axis.tick_params(labelsize=OVERVIEW_FONT_SIZE)

    if names_fit(len(curves) + 1, OVERVIEW_AXIS_INCH, OVERVIEW_FONT_SIZE):
        ends = _line_ends(curves, dense, OVERVIEW_AGAINST[-1][0], "accuracy")
        name_ends(axes[-1], ends, OVERVIEW_AXIS_INCH, OVERVIEW_FONT_SIZE)
    else:
        title += f": {len(curves)} methods, which tradeoff.png names"
    figure.suptitle(title, size=10)
    return figure


def _panels(
    axes: Sequence[Axes],
    curves: Sequence[MethodCurve],
    dense: Row,
    against: Sequence[Cost],
    accuracy: str,
) -> None:
    for axis, (cost, label, tick_text) in zip(axes, against, strict=True):
        costs = {dense[cost]}
        for curve in curves:
            _method_curve(axis, curve, cost, accuracy)
            costs.update(curve.values(cost))
        dense_line(axis, dense["accuracy"], dense["accuracy_ci95"])

        log_axis(axis, sorted(costs), tick_text)
        axis.set_xlabel(label)
        percent_ticks(axis.yaxis)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)

    # There is nothing above 100 %, nor below 0.
    low, high = axes[0].get_ylim()
    axes[0].set_ylim(max(low, -0.01), min(high, 1.01))


def _method_curve(axis: Axes, curve: MethodCurve, cost: str, accuracy: str) -> None:
    """One method. A random control lies behind the others, thin and without a band."""
    x = np.array(curve.values(cost))
    y = np.array(curve.values(accuracy))
    half_width = np.array(curve.values(f"{accuracy}_ci95"))

    # An accuracy, unlike a normal variate, cannot leave the range from 0 to 1.
    low, high = np.clip(y - half_width, 0, 1), np.clip(y + half_width, 0, 1)

    # A line between points of one cost would show nothing but their order.
    style: str = line_style(curve.method)
    if x.min() == x.max():
        style = ""

    order, width, size, strength = 3, 1.8, 5.0, 1.0
    if curve.is_control:
        order, width, size, strength = 1, 1.1, 3.5, 0.6
    else:
        axis.fill_between(x, low, high, color=curve.colour, alpha=0.12, lw=0, zorder=2)

    axis.plot(
        x,
        y,
        color=curve.colour,
        linestyle=style,
        linewidth=width,
        marker=marker(curve.method),
        markersize=size,
        alpha=strength,
        zorder=order,
    )

    # Masks leave the MACs as they are, so their points lie above one another and have no band to
    # fill. Bars show the intervals of such points.
    axis.errorbar(
        x,
        y,
        [y - low, high - y],
        fmt="none",
        ecolor=curve.colour,
        elinewidth=0.8,
        capsize=2,
        alpha=0.7 * strength,
        zorder=order,
    )


def _line_ends(
    curves: Sequence[MethodCurve], dense: Row, cost: str, accuracy: str
) -> list[LineEnd]:
    """The cheapest point of every method, and the dense network."""
    ends = []
    lowest = dense[cost]
    for curve in curves:
        point = min(curve.points, key=lambda point: point[cost])
        ends.append(LineEnd(curve.method, curve.colour, point[cost], point[accuracy]))
        lowest = min(lowest, point[cost])

    ends.append(LineEnd(DENSE, DENSE_COLOUR, lowest / 1.25, dense["accuracy"]))
    return ends


def _method_legend(curves: Sequence[MethodCurve]) -> list[Line2D]:
    lines = []
    for curve in curves:
        line = Line2D(
            [],
            [],
            color=curve.colour,
            linestyle=line_style(curve.method),
            marker=marker(curve.method),
            label=curve.method,
        )
        lines.append(line)

    lines.append(Line2D([], [], color=DENSE_COLOUR, linestyle="--", linewidth=1, label=DENSE))
    return lines
