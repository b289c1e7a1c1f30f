"""The pictures, as matplotlib figures, out of rows and metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    MaxNLocator,
    NullFormatter,
    NullLocator,
    PercentFormatter,
)

from prunelab.report.costs import COSTS
from prunelab.report.style import DENSE_COLOUR, colour, line_style, marker

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Curve:
    """The training of one configuration: rows by epoch, where to draw it, and in which colour."""

    name: str
    group: str
    colour: str
    rows: Sequence[Row]


# What the trade-off is drawn against: key, label, and how to print a tick.
AGAINST = (
    ("kept", "weights kept, % of the dense network", lambda value: f"{100 * value:.3g}"),
    *((cost, COSTS[cost], lambda value: short(value)) for cost in ("params_nonzero", "macs")),
)
# The states of a network, and how the accuracy in each is called in the rows.
STATES = (("accuracy", "after fine-tuning"), ("accuracy_pruned", "before fine-tuning"))


def tradeoff(rows: Sequence[Row], dense: Row, title: str) -> Figure:
    """Accuracy against what is left, one column per cost and one line of panels per state, with 95 % bands."""
    figure = Figure(figsize=(12, 7.2), layout="constrained")
    axes = figure.subplots(len(STATES), len(AGAINST), sharex="col", sharey="row", squeeze=False)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for index, (line, (accuracy, state)) in enumerate(zip(axes, STATES, strict=True)):
        for axis, (cost, label, text) in zip(line, AGAINST, strict=True):
            for method in methods:
                points = sorted(
                    (row for row in rows if row["method"] == method), key=lambda row: row["ratio"]
                )
                _curve(axis, points, cost, accuracy, method)
            dense_line(axis, dense)
            log_axis(axis, sorted({row[cost] for row in [*rows, dense]}), text)
            axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            axis.grid(alpha=0.25)
            if index == len(STATES) - 1:
                axis.set_xlabel(label)
        line[0].set_ylabel(f"test accuracy\n{state}")
    _legend_below(figure, _legend(methods))
    figure.suptitle(title)
    return figure


def _curve(axis: Axes, points: Sequence[Row], cost: str, accuracy: str, method: str) -> None:
    x, y = (np.array([point[key] for point in points]) for key in (cost, accuracy))
    half = np.array([point[f"{accuracy}_ci95"] for point in points])
    axis.plot(
        x,
        y,
        color=colour(method),
        linestyle=line_style(method),
        marker=marker(method),
        markersize=5,
    )
    low, high = (
        np.clip(y - half, 0, 1),
        np.clip(y + half, 0, 1),
    )  # an accuracy, unlike a normal variate, has bounds
    axis.fill_between(x, low, high, color=colour(method), alpha=0.12, lw=0)
    # Points above one another (masks leave MACs as they are) have no band to fill: hence bars as well.
    axis.errorbar(
        x,
        y,
        [y - low, high - y],
        fmt="none",
        ecolor=colour(method),
        elinewidth=0.8,
        capsize=2,
        alpha=0.7,
    )


def dense_line(axis: Axes, dense: Row) -> None:
    y, half = dense["accuracy"], dense["accuracy_ci95"]
    axis.axhline(y, color=DENSE_COLOUR, linestyle="--", linewidth=1)
    axis.axhspan(y - half, min(1.0, y + half), color=DENSE_COLOUR, alpha=0.08, lw=0)


def log_axis(axis: Axes, values: Sequence[float], text: Any) -> None:
    """A log scale that falls to the right, with ticks at round places and a little room at both ends."""
    low, high = values[0] / 1.25, values[-1] * 1.25
    axis.set_xscale("log")
    axis.set_xlim(high, low)
    axis.xaxis.set_major_locator(FixedLocator(_round_places(low, high)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_minor_formatter(NullFormatter())


def _round_places(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten from low to high; only the powers if that is many."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        places = [digit * 10.0**decade for decade in decades for digit in digits]
        places = [place for place in places if low <= place <= high]
        if len(places) <= 7:
            return places
    return places


def short(value: float) -> str:
    """Three digits and a unit, as a tick bears them."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def _legend_below(figure: Figure, lines: Sequence[Line2D]) -> None:
    """A legend of as many columns as fit: a letter takes about 0.09 inch, a sample of the line 0.55."""
    longest = max(len(str(line.get_label())) for line in lines)
    columns = min(len(lines), max(1, int(figure.get_figwidth() / (0.09 * longest + 0.55))))
    figure.legend(handles=list(lines), loc="outside lower center", ncols=columns, frameon=False)


def _legend(methods: Sequence[str]) -> list[Line2D]:
    lines = [
        Line2D(
            [],
            [],
            color=colour(method),
            linestyle=line_style(method),
            marker=marker(method),
            label=method,
        )
        for method in methods
    ]
    return [*lines, Line2D([], [], color=DENSE_COLOUR, linestyle="--", linewidth=1, label="dense")]


def training(curves: Sequence[Curve], title: str) -> Figure:
    """Loss and accuracy by epoch, one column of panels per group of curves; dashed is training, solid validation."""
    groups = list(dict.fromkeys(curve.group for curve in curves))
    figure = Figure(figsize=(3.3 * len(groups) + 0.9, 6), layout="constrained")
    axes = figure.subplots(2, len(groups), squeeze=False)
    for (loss, accuracy), group in zip(axes.T, groups, strict=True):
        for curve in curves:
            if curve.group == group:
                _training_lines(loss, curve.rows, "loss", curve.colour)
                _training_lines(accuracy, curve.rows, "accuracy", curve.colour)
        loss.set_title(group, fontsize=10)
        _training_axes(loss, accuracy)
    axes[0, 0].set_ylabel("cross-entropy")
    axes[1, 0].set_ylabel("accuracy")
    named = {curve.name: curve.colour for curve in curves}
    lines = [Line2D([], [], color=line_colour, label=name) for name, line_colour in named.items()]
    lines.append(
        Line2D(
            [], [], color="grey", linestyle="--", linewidth=1, label="training (solid: validation)"
        )
    )
    _legend_below(figure, lines)
    figure.suptitle(title)
    return figure


def _training_lines(axis: Axes, rows: Sequence[Row], key: str, line_colour: str) -> None:
    epochs = [row["epoch"] for row in rows]
    axis.plot(
        epochs,
        [row[key] for row in rows],
        color=line_colour,
        linestyle="--",
        linewidth=1,
        alpha=0.7,
    )
    axis.plot(epochs, [row[f"validation_{key}"] for row in rows], color=line_colour, linewidth=1.6)


def _training_axes(loss: Axes, accuracy: Axes) -> None:
    loss.set_yscale("log")
    loss.yaxis.set_major_formatter("{x:g}")
    loss.yaxis.set_minor_formatter(NullFormatter())
    accuracy.set_xlabel("epoch")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    for axis in (loss, accuracy):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axis.grid(alpha=0.25)


def focus(
    history: Sequence[Row],
    matrix: np.ndarray,
    class_names: Sequence[str],
    title: str,
    line_colour: str,
) -> Figure:
    """One configuration: loss and accuracy of its fine-tuning by epoch, beside its confusion matrix."""
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1, 1.25))
    loss = figure.add_subplot(grid[0, 0])
    accuracy = figure.add_subplot(grid[1, 0], sharex=loss)
    _training_lines(loss, history, "loss", line_colour)
    _training_lines(accuracy, history, "accuracy", line_colour)
    _training_axes(loss, accuracy)
    loss.set_ylabel("cross-entropy")
    loss.tick_params(labelbottom=False)
    accuracy.set_ylabel("accuracy")
    loss.set_title("fine-tuning, mean over seeds; dashed: training", fontsize=9)
    matrix_axis = figure.add_subplot(grid[:, 1])
    _confusion(matrix_axis, matrix, class_names)
    matrix_axis.set_title("test images, all seeds together", fontsize=9)
    figure.suptitle(title)
    return figure


def _confusion(axis: Axes, matrix: np.ndarray, class_names: Sequence[str]) -> None:
    """Shares of each actual class by predicted class; counts are written in where they are legible."""
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set_xlabel("predicted class")
    axis.set_ylabel("actual class")
    if len(class_names) <= 20:
        places = range(len(class_names))
        axis.set_xticks(places, class_names, rotation=45 if max(map(len, class_names)) > 2 else 0)
        axis.set_yticks(places, class_names)
        for actual, predicted in zip(*matrix.nonzero(), strict=True):
            dark = shares[actual, predicted] > 0.5
            count = str(matrix[actual, predicted])
            axis.text(
                predicted,
                actual,
                count,
                ha="center",
                va="center",
                size=7,
                color="white" if dark else "black",
            )
    bar = axis.figure.colorbar(image, ax=axis, shrink=0.8)
    bar.set_label("share of the actual class")
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def confusion(matrix: np.ndarray, class_names: Sequence[str], title: str) -> Figure:
    figure = Figure(figsize=(6.2, 5.4), layout="constrained")
    _confusion(figure.subplots(), matrix, class_names)
    figure.suptitle(title)
    return figure
