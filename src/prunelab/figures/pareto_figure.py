"""Revisions as a picture: accuracy against cost, with intervals and the Pareto front."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from prunelab.figures.figures import dense_line, log_axis, short
from prunelab.report.costs import COSTS
from prunelab.report.pareto import Row
from prunelab.report.style import DENSE_COLOUR, colour, marker

FRONT_COLOUR = "#009E73"


def comparison(rows: Sequence[Row], cost: str, title: str) -> Figure:
    """One point per row, hollow where it cannot be compared with the first; the front is joined."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    axis = figure.subplots()
    first = rows[0]
    dense_line(
        axis, {"accuracy": first["dense_accuracy"], "accuracy_ci95": first["dense_accuracy_ci95"]}
    )
    front = sorted((row for row in rows if row["front"]), key=lambda row: row["cost"])
    axis.plot(
        [row["cost"] for row in front],
        [row["accuracy"] for row in front],
        color=FRONT_COLOUR,
        linewidth=1.2,
    )
    for row in rows:
        _point(axis, row)
    log_axis(axis, sorted({row["cost"] for row in rows}), short)
    _name_points(axis, rows)
    axis.set_xlabel(COSTS[cost])
    axis.set_ylabel("test accuracy after fine-tuning")
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axis.grid(alpha=0.25)
    lines = [
        Line2D([], [], color=FRONT_COLOUR, linewidth=1.2, label="front"),
        Line2D([], [], color=DENSE_COLOUR, linestyle="--", linewidth=1, label="dense"),
    ]
    if any(_apart(row) for row in rows):
        hollow: dict[str, Any] = {
            "marker": "o",
            "linestyle": "",
            "color": "grey",
            "markerfacecolor": "white",
        }
        lines.append(Line2D([], [], label="not comparable", **hollow))
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), frameon=False)
    figure.suptitle(title)
    return figure


def _apart(row: Row) -> bool:
    return bool(row["not_comparable"] or row["stale"])


def _point(axis: Axes, row: Row) -> None:
    x, y, half, tint = (
        row["cost"],
        row["accuracy"],
        row["accuracy_ci95"],
        colour(str(row["method"])),
    )
    error = [[min(half, y)], [min(half, 1 - y)]]  # an accuracy, unlike a normal variate, has bounds
    face = "white" if _apart(row) else tint
    axis.errorbar(
        x,
        y,
        error,
        fmt=marker(str(row["method"])),
        color=tint,
        markerfacecolor=face,
        elinewidth=0.8,
        capsize=2,
    )


def _name_points(axis: Axes, rows: Sequence[Row]) -> None:
    """One label for all that lie on a point, above and below by turns, towards the middle of the picture."""
    names: dict[tuple[float, float], list[str]] = {}
    for row in sorted(rows, key=lambda row: row["cost"]):
        names.setdefault((row["cost"], row["accuracy"]), []).append(row["name"])
    for index, (point, those) in enumerate(names.items()):
        place = axis.transAxes.inverted().transform(axis.transData.transform(point))[0]
        right, above = place < 0.6, index % 2 == 0
        offset = (6 if right else -6, 6 if above else -6)
        sides: dict[str, Any] = {
            "ha": "left" if right else "right",
            "va": "bottom" if above else "top",
        }
        axis.annotate(", ".join(those), point, offset, textcoords="offset points", size=7, **sides)
