"""The pictures of one study besides its trade-off: training, focus and confusion matrix."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter

from prunelab.figures.line_names import legend_below
from prunelab.report.rows import column
from prunelab.report.series import (
    Confusion,
    TrainingCurve,
    by_group,
)

Row = Mapping[str, Any]

MAX_NAMED_CLASSES = 20  # more names and counts are not legible


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

    legend_below(figure, _training_legend(curves))
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

    # A line through the point of a single epoch would not be seen.
    training_marker, validation_marker = "none", "none"
    if len(rows) == 1:
        training_marker, validation_marker = "x", "o"

    dashed: dict[str, Any] = {"linestyle": "--", "linewidth": 1, "alpha": 0.7}
    axis.plot(epochs, in_training, marker=training_marker, color=colour, **dashed)
    axis.plot(epochs, in_validation, marker=validation_marker, color=colour, linewidth=1.6)


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
