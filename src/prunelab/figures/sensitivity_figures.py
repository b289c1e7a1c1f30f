"""The picture of what every layer bears: a curve per layer, and a heat map of layer by ratio."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from prunelab.artifacts.records import ALL
from prunelab.report.style import DENSE_COLOUR

Row = Mapping[str, Any]
DEPTH = colormaps["viridis"].resampled(256)
NAMED = 60  # so many layers at most have their names beside the heat map
WRITTEN = 30  # and so many their values in it


def sensitivity(record: Row, title: str) -> Figure:
    """One line of panels per granularity: accuracy against ratio, a curve per layer, and the same as a heat map.

    `record` is what the stage of this name wrote.
    """
    kinds = list(dict.fromkeys(row["granularity"] for row in record["rows"]))
    rows = {kind: [row for row in record["rows"] if row["granularity"] == kind] for kind in kinds}
    heights = [1.6 + 0.24 * min(NAMED, max(10, len(_layers(rows[kind])))) for kind in kinds]
    figure = Figure(figsize=(12, sum(heights) + 0.6), layout="constrained")
    axes = figure.subplots(len(kinds), 2, squeeze=False, height_ratios=heights)
    for (lines, heat), kind in zip(axes, kinds, strict=True):
        _curves(lines, rows[kind], record["accuracy"], kind)
        _heat_map(heat, rows[kind], kind)
    figure.suptitle(title)
    return figure


def _layers(rows: Sequence[Row]) -> list[str]:
    """From the first layer on; what is measured of all together comes last."""
    return list(dict.fromkeys(row["layer"] for row in rows))


def _curves(axis: Axes, rows: Sequence[Row], dense: float, kind: str) -> None:
    alone = [layer for layer in _layers(rows) if layer != ALL]
    depth = Normalize(1, max(2, len(alone)))
    for place, layer in enumerate([*alone, ALL], start=1):
        points = [
            (0.0, dense),
            *((row["ratio"], row["accuracy"]) for row in rows if row["layer"] == layer),
        ]
        look: dict[str, Any] = {"color": DEPTH(depth(place)), "linewidth": 1.2, "markersize": 3}
        if layer == ALL:
            look = {
                "color": DENSE_COLOUR,
                "linewidth": 2,
                "markersize": 4,
                "label": "all layers together",
            }
        axis.plot(*zip(*sorted(points), strict=True), marker="o", **look)
    axis.axhline(dense, color=DENSE_COLOUR, linestyle="--", linewidth=1, label="dense")
    axis.set_xlabel(f"ratio ({kind}s taken of a layer)")
    axis.set_ylabel("validation accuracy")
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.grid(alpha=0.25)
    axis.legend(frameon=False, loc="lower left")
    bar = axis.figure.colorbar(
        ScalarMappable(depth, DEPTH), ax=axis, shrink=0.8, ticks=MaxNLocator(integer=True)
    )
    bar.set_label("layer by depth, 1 is the first")


def _heat_map(axis: Axes, rows: Sequence[Row], kind: str) -> None:
    layers, ratios = _layers(rows), sorted({row["ratio"] for row in rows})
    shares = np.full(
        (len(layers), len(ratios)), np.nan
    )  # a layer with few units has no value at every ratio
    for row in rows:
        shares[layers.index(row["layer"]), ratios.index(row["ratio"])] = row["accuracy"]
    axis.set_facecolor("lightgrey")
    image = axis.imshow(shares, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    axis.set_xticks(range(len(ratios)), [f"{ratio:g}" for ratio in ratios])
    axis.set_xlabel("ratio")
    if len(layers) <= NAMED:
        axis.set_yticks(range(len(layers)), layers, size=8)
    else:
        axis.set_ylabel("layer by depth; the last: all")
    if len(layers) <= WRITTEN:
        for place in np.argwhere(~np.isnan(shares)):
            share = shares[tuple(place)]
            colour = "black" if share > 0.6 else "white"
            axis.text(
                place[1],
                place[0],
                f"{100 * share:.0f}",
                ha="center",
                va="center",
                size=7,
                color=colour,
            )
    bar = axis.figure.colorbar(image, ax=axis, shrink=0.8)
    bar.set_label(f"validation accuracy, {kind}s")
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
