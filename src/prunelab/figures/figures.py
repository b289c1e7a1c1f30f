"""The pictures of one study: trade-off, training, focus and confusion matrix."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter

from prunelab.figures.axes import dense_line, log_axis
from prunelab.report.labels import COSTS, DENSE, KEPT, STATES
from prunelab.report.rows import column
from prunelab.report.series import (
    Confusion,
    MethodCurve,
    TrainingCurve,
    by_group,
    method_curves,
)
from prunelab.report.style import DENSE_COLOUR, line_style, marker
from prunelab.report.ticks import short_number

Row = Mapping[str, Any]

LETTER_INCH, LINE_SAMPLE_INCH = 0.09, 0.55  # the width of a legend's parts, about
MAX_NAMED_CLASSES = 20  # more names and counts are not legible


def _percent_tick(share: float) -> str:
    return f"{100 * share:.3g}"


# What the trade-off is drawn against: key, label, and how to print a tick.
AGAINST: list[tuple[str, str, Callable[[float], str]]] = [
    ("kept", KEPT, _percent_tick),
    ("params_nonzero", COSTS["params_nonzero"], short_number),
    ("macs", COSTS["macs"], short_number),
]


def tradeoff(rows: Sequence[Row], dense: Row, title: str) -> Figure:
    """Accuracy against what remains: a column of panels per cost, a line of panels per state.

    `rows` are those of plots/tradeoff.json. Bands and bars are 95 % intervals.
    """
    curves = method_curves(rows)
    figure = Figure(figsize=(12, 7.2), layout="constrained")
    axes = figure.subplots(len(STATES), len(AGAINST), sharex="col", sharey="row", squeeze=False)

    for line, accuracy in zip(axes, STATES, strict=True):
        for axis, (cost, _, tick_text) in zip(line, AGAINST, strict=True):
            for curve in curves:
                _method_curve(axis, curve, cost, accuracy)
            dense_line(axis, dense["accuracy"], dense["accuracy_ci95"])

            log_axis(axis, sorted(set(column([*rows, dense], cost))), tick_text)
            axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            axis.grid(alpha=0.25)

    for axis, (_, label, _) in zip(axes[-1], AGAINST, strict=True):
        axis.set_xlabel(label)
    for axis, state in zip(axes[:, 0], STATES.values(), strict=True):
        axis.set_ylabel(f"test accuracy\n{state}")

    _legend_below(figure, _method_legend(curves))
    figure.suptitle(title)
    return figure


def _method_curve(axis: Axes, curve: MethodCurve, cost: str, accuracy: str) -> None:
    x = np.array(curve.values(cost))
    y = np.array(curve.values(accuracy))
    half_width = np.array(curve.values(f"{accuracy}_ci95"))

    # An accuracy, unlike a normal variate, cannot leave the range from 0 to 1.
    low, high = np.clip(y - half_width, 0, 1), np.clip(y + half_width, 0, 1)

    axis.plot(
        x,
        y,
        color=curve.colour,
        linestyle=line_style(curve.method),
        marker=marker(curve.method),
        markersize=5,
    )
    axis.fill_between(x, low, high, color=curve.colour, alpha=0.12, lw=0)

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
        alpha=0.7,
    )


def _legend_below(figure: Figure, lines: Sequence[Line2D]) -> None:
    """A legend with as many columns as fit the width of the figure."""
    longest = max(len(str(line.get_label())) for line in lines)
    column_inch = LETTER_INCH * longest + LINE_SAMPLE_INCH
    columns = min(len(lines), max(1, int(figure.get_figwidth() / column_inch)))
    figure.legend(handles=list(lines), loc="outside lower center", ncols=columns, frameon=False)


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


def training(curves: Sequence[TrainingCurve], title: str) -> Figure:
    """Loss and accuracy by epoch, a column of two panels per group of curves.

    Dashed lines are training, solid lines validation.
    """
    groups = by_group(curves)
    figure = Figure(figsize=(3.3 * len(groups) + 0.9, 6), layout="constrained")
    axes = figure.subplots(2, len(groups), squeeze=False)

    for (loss, accuracy), (group, group_curves) in zip(axes.T, groups.items(), strict=True):
        for curve in group_curves:
            _training_lines(loss, curve.rows, "loss", curve.colour)
            _training_lines(accuracy, curve.rows, "accuracy", curve.colour)
        loss.set_title(group, fontsize=10)
        _training_axes(loss, accuracy)

    axes[0, 0].set_ylabel("cross-entropy")
    axes[1, 0].set_ylabel("accuracy")

    _legend_below(figure, _training_legend(curves))
    figure.suptitle(title)
    return figure


def _training_legend(curves: Sequence[TrainingCurve]) -> list[Line2D]:
    """One line per name, and one that explains the dashes."""
    by_name = {}
    for curve in curves:
        by_name[curve.name] = Line2D([], [], color=curve.colour, label=curve.name)
    lines = list(by_name.values())

    explained = "training (solid: validation)"
    lines.append(Line2D([], [], color="grey", linestyle="--", linewidth=1, label=explained))
    return lines


def _training_lines(axis: Axes, rows: Sequence[Row], measure: str, colour: str) -> None:
    epochs = column(rows, "epoch")
    in_training, in_validation = column(rows, measure), column(rows, f"validation_{measure}")

    axis.plot(epochs, in_training, color=colour, linestyle="--", linewidth=1, alpha=0.7)
    axis.plot(epochs, in_validation, color=colour, linewidth=1.6)


def _training_axes(loss: Axes, accuracy: Axes) -> None:
    loss.set_yscale("log")
    loss.yaxis.set_major_formatter("{x:g}")
    loss.yaxis.set_minor_formatter(NullFormatter())

    accuracy.set_xlabel("epoch")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))

    for axis in (loss, accuracy):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axis.grid(alpha=0.25)


def focus(history: Sequence[Row], confusion: Confusion, title: str, colour: str) -> Figure:
    """One configuration: loss and accuracy of its fine-tuning, beside its confusion matrix.

    `history` has a row per epoch; `colour` is that of the method.
    """
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1, 1.25))

    loss = figure.add_subplot(grid[0, 0])
    accuracy = figure.add_subplot(grid[1, 0], sharex=loss)
    _training_lines(loss, history, "loss", colour)
    _training_lines(accuracy, history, "accuracy", colour)
    _training_axes(loss, accuracy)
    loss.set_title("fine-tuning, mean over seeds; dashed: training", fontsize=9)
    loss.set_ylabel("cross-entropy")
    loss.tick_params(labelbottom=False)
    accuracy.set_ylabel("accuracy")

    matrix = figure.add_subplot(grid[:, 1])
    _confusion(matrix, confusion)
    matrix.set_title("test images, all seeds together", fontsize=9)

    figure.suptitle(title)
    return figure


def confusion(confusion: Confusion, title: str) -> Figure:
    """The confusion matrix of one configuration."""
    figure = Figure(figsize=(6.2, 5.4), layout="constrained")
    _confusion(figure.subplots(), confusion)
    figure.suptitle(title)
    return figure


def _confusion(axis: Axes, confusion: Confusion) -> None:
    image = axis.imshow(confusion.shares, cmap="Blues", vmin=0, vmax=1)
    axis.set_xlabel("predicted class")
    axis.set_ylabel("actual class")

    if len(confusion.classes) <= MAX_NAMED_CLASSES:
        _name_classes(axis, confusion.classes)
        _write_counts(axis, confusion)

    bar = axis.figure.colorbar(image, ax=axis, shrink=0.8)
    bar.set_label("share of the actual class")
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def _name_classes(axis: Axes, classes: Sequence[str]) -> None:
    longest = max(map(len, classes))
    rotation = 45 if longest > 2 else 0

    axis.set_xticks(range(len(classes)), classes, rotation=rotation)
    axis.set_yticks(range(len(classes)), classes)


def _write_counts(axis: Axes, confusion: Confusion) -> None:
    shares = confusion.shares

    for actual, predicted in zip(*confusion.counts.nonzero(), strict=True):
        count = str(confusion.counts[actual, predicted])
        colour = "white" if shares[actual, predicted] > 0.5 else "black"
        axis.text(predicted, actual, count, ha="center", va="center", size=7, color=colour)
