"""The sensitivity of every layer as a picture: a curve per layer, and a heat map."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from prunelab.core.plurals import UNITS
from prunelab.figures.axes import percent_ticks
from prunelab.report.rows import column
from prunelab.report.series import LayerCurve, SensitivityPanel, sensitivity_panels
from prunelab.report.style import DENSE_COLOUR

Row = Mapping[str, Any]

DEPTH = colormaps["viridis"].resampled(256)
MIN_HEIGHT_LAYERS = 10
MAX_NAMED_LAYERS = 60  # beside the heat map
MAX_WRITTEN_LAYERS = 30  # whose values are written into the heat map


def sensitivity(record: Row, title: str) -> Figure:
    """A line of panels per granularity: accuracy by ratio as a curve per layer and as a heat map.

    `record` is the content of metrics/sensitivity.json.
    """
    panels = sensitivity_panels(record)
    heights = list(map(_height_inch, panels))

    figure = Figure(figsize=(12, sum(heights) + 0.6), layout="constrained")
    axes = figure.subplots(len(panels), 2, squeeze=False, height_ratios=heights)
    for (curves, heat_map), panel in zip(axes, panels, strict=True):
        _curves(curves, panel)
        _heat_map(heat_map, panel)

    figure.suptitle(title)
    return figure


def _height_inch(panel: SensitivityPanel) -> float:
    lines = min(MAX_NAMED_LAYERS, max(MIN_HEIGHT_LAYERS, len(panel.layers)))
    return 1.6 + 0.24 * lines


def _curves(axis: Axes, panel: SensitivityPanel) -> None:
    single_layers = sum(not curve.is_all for curve in panel.curves)
    depth = Normalize(1, max(2, single_layers))

    for place, curve in enumerate(panel.curves, start=1):
        ratios, accuracies = _curve_points(curve, panel.dense_accuracy)
        look: dict[str, Any] = {"color": DEPTH(depth(place)), "linewidth": 1.2, "markersize": 3}
        if curve.is_all:
            look = {
                "color": DENSE_COLOUR,
                "linewidth": 2,
                "markersize": 4,
                "label": "all layers together",
            }
        axis.plot(ratios, accuracies, marker="o", **look)

    axis.axhline(
        panel.dense_accuracy, color=DENSE_COLOUR, linestyle="--", linewidth=1, label="dense"
    )
    axis.set_xlabel(f"ratio ({UNITS[panel.granularity]} taken of a layer)")
    axis.set_ylabel("validation accuracy")
    percent_ticks(axis.yaxis)
    axis.grid(alpha=0.25)
    axis.legend(frameon=False, loc="lower left")

    bar = axis.figure.colorbar(
        ScalarMappable(depth, DEPTH), ax=axis, shrink=0.8, ticks=MaxNLocator(integer=True)
    )
    bar.set_label("layer by depth, 1 is the first")


def _curve_points(curve: LayerCurve, dense_accuracy: float) -> tuple[list[float], list[float]]:
    """Ratios and accuracies in the order of the ratios, from the dense network on."""
    ratios, accuracies = column(curve.rows, "ratio"), column(curve.rows, "accuracy")
    return [0.0, *ratios], [dense_accuracy, *accuracies]


def _heat_map(axis: Axes, panel: SensitivityPanel) -> None:
    layers, ratios = panel.layers, panel.ratios
    accuracies = panel.heat_map(ratios)

    axis.set_facecolor("lightgrey")  # shows through where nothing was measured
    image = axis.imshow(accuracies, cmap="viridis", vmin=0, vmax=1, aspect="auto")

    axis.set_xticks(range(len(ratios)), [f"{ratio:g}" for ratio in ratios])
    axis.set_xlabel("ratio")
    if len(layers) <= MAX_NAMED_LAYERS:
        axis.set_yticks(range(len(layers)), layers, size=8)
    else:
        axis.set_ylabel("layer by depth; the last: all")
    if len(layers) <= MAX_WRITTEN_LAYERS:
        _write_percentages(axis, accuracies)

    bar = axis.figure.colorbar(image, ax=axis, shrink=0.8)
    bar.set_label(f"validation accuracy, {UNITS[panel.granularity]}")
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def _write_percentages(axis: Axes, accuracies: np.ndarray) -> None:
    for layer, ratio in np.argwhere(~np.isnan(accuracies)):
        accuracy = accuracies[layer, ratio]
        colour = "black" if accuracy > 0.6 else "white"
        text = f"{100 * accuracy:.0f}"
        axis.text(ratio, layer, text, ha="center", va="center", size=7, color=colour)
