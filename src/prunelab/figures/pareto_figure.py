"""Revisions as a picture: accuracy against cost, with intervals and the Pareto front."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from prunelab.figures.axes import dense_line, log_axis
from prunelab.report.labels import COSTS, DENSE
from prunelab.report.pareto import Row
from prunelab.report.rows import column
from prunelab.report.style import DENSE_COLOUR, colour, marker
from prunelab.report.ticks import short_number

FRONT_COLOUR = "#009E73"
LABEL_DISTANCE = 6  # points between a point and its name


def comparison(rows: Sequence[Row], cost: str, title: str) -> Figure:
    """One point per row of `compare`; a line joins the Pareto front.

    A point is hollow if it cannot be compared with the first row, or its metrics are stale.
    """
    figure = Figure(figsize=(9, 6), layout="constrained")
    axis = figure.subplots()

    dense_line(axis, rows[0]["dense_accuracy"], rows[0]["dense_accuracy_ci95"])
    _front(axis, rows)
    for row in rows:
        _point(axis, row)

    log_axis(axis, sorted(set(column(rows, "cost"))), short_number)
    _name_points(axis, rows)  # their sides depend on the limits of the axes

    axis.set_xlabel(COSTS[cost])
    axis.set_ylabel(f"{rows[0]['split']} accuracy after fine-tuning")
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axis.grid(alpha=0.25)

    lines = _legend(rows)
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), frameon=False)
    figure.suptitle(title)
    return figure


def _front(axis: Axes, rows: Sequence[Row]) -> None:
    front = [row for row in rows if row["front"]]
    front.sort(key=lambda row: row["cost"])

    costs, accuracies = column(front, "cost"), column(front, "accuracy")
    axis.plot(costs, accuracies, color=FRONT_COLOUR, linewidth=1.2)


def _legend(rows: Sequence[Row]) -> list[Line2D]:
    lines = [
        Line2D([], [], color=FRONT_COLOUR, linewidth=1.2, label="front"),
        Line2D([], [], color=DENSE_COLOUR, linestyle="--", linewidth=1, label=DENSE),
    ]
    if any(map(_is_hollow, rows)):
        look: dict[str, Any] = {"marker": "o", "linestyle": "", "markerfacecolor": "white"}
        lines.append(Line2D([], [], label="not comparable", color="grey", **look))
    return lines


def _is_hollow(row: Row) -> bool:
    return bool(row["not_comparable"] or row["stale"])


def _point(axis: Axes, row: Row) -> None:
    method, accuracy, half_width = str(row["method"]), row["accuracy"], row["accuracy_ci95"]
    method_colour = colour(method)

    face_colour = method_colour
    if _is_hollow(row):
        face_colour = "white"

    # An accuracy, unlike a normal variate, cannot leave the range from 0 to 1.
    below, above = min(half_width, accuracy), min(half_width, 1 - accuracy)

    axis.errorbar(
        row["cost"],
        accuracy,
        [[below], [above]],
        fmt=marker(method),
        color=method_colour,
        markerfacecolor=face_colour,
        elinewidth=0.8,
        capsize=2,
    )


def _name_points(axis: Axes, rows: Sequence[Row]) -> None:
    """Label every point once, with the names of all rows that lie on it.

    Labels are above and below by turns, on the side towards the middle of the picture.
    """
    names = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["cost"]):
        names[row["cost"], row["accuracy"]].append(row["name"])

    for index, (point, point_names) in enumerate(names.items()):
        pixel = axis.transData.transform(point)
        across = axis.transAxes.inverted().transform(pixel)[0]  # 0 is the left end, 1 the right

        dx, side = (LABEL_DISTANCE, "left") if across < 0.6 else (-LABEL_DISTANCE, "right")
        dy, edge = (LABEL_DISTANCE, "bottom") if index % 2 == 0 else (-LABEL_DISTANCE, "top")
        alignment: dict[str, Any] = {"ha": side, "va": edge}
        axis.annotate(
            ", ".join(point_names),
            point,
            (dx, dy),
            textcoords="offset points",
            size=7,
            **alignment,
        )
