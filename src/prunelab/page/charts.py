"""The charts of the page as plain Plotly figures.

They say what is drawn. How it looks in light or dark is up to page.html. What the trade-off, the
training, the confusion and the sensitivity draw is prepared in `report/series.py`.
"""

from collections.abc import Mapping, Sequence
from html import escape
from math import isnan
from typing import Any

from prunelab.report.labels import COSTS, DENSE, LATENCY
from prunelab.report.rows import column
from prunelab.report.series import (
    Confusion,
    LayerCurve,
    SensitivityPanel,
    TrainingCurve,
    by_group,
    method_curves,
    sensitivity_panels,
    training_curves,
)
from prunelab.report.style import DENSE_COLOUR
from prunelab.report.tables import same_as

Row = Mapping[str, Any]
Trace = dict[str, Any]  # one curve, as Plotly takes it
Chart = dict[str, Any]  # data and layout, as Plotly takes them

TRADEOFF_COSTS = COSTS | {"latency_ms": LATENCY}
MAX_LEGEND = 24  # curves that a legend can still name
SHOWN_DISTRIBUTIONS = 3  # the others show on a click
QUANTILE_STEP = 5  # per cent between two stored quantiles of a latency

# The colours of a heat map's ends, which suit a light page and a dark one.
SHADES = [
    [0, "rgba(0, 114, 178, 0.03)"],
    [1, "rgba(0, 114, 178, 1)"],
]
CATEGORIES = {"type": "category"}
CATEGORIES_DOWN = {"type": "category", "autorange": "reversed"}  # the first one on top


def tradeoff(dense: Row, points: Sequence[Row], cost: str, label: str) -> Chart:
    """Test accuracy against a cost, on a log axis that falls to the right.

    There is a line per method, and a dashed one for the dense network.
    """
    traces: list[Trace] = []

    for curve in method_curves(points):
        dash = "dot" if curve.is_control else "solid"
        trace = {
            "type": "scatter",
            "mode": "lines+markers",
            "name": curve.method,
            "x": curve.values(cost),
            "y": _percent(curve.values("accuracy")),
            "error_y": {
                "type": "data",
                "array": _percent(curve.values("accuracy_ci95")),
                "thickness": 1,
            },
            "text": list(map(_point_text, curve.points)),
            "hovertemplate": "%{text}<extra></extra>",
            "line": {"color": curve.colour, "dash": dash},
        }
        traces.append(trace)

    costs = column([dense, *points], cost)
    traces.append(_dense_trace(100 * dense["accuracy"], costs))

    xaxis = {"type": "log", "autorange": "reversed", "dtick": "D2"}
    return _chart(traces, label, "test accuracy, %", xaxis=xaxis)


def _dense_trace(accuracy: float, costs: Sequence[float]) -> Trace:
    """The dense network as a level line across all costs; `accuracy` in per cent."""
    ends = [max(costs) * 1.2, min(costs) / 1.2]

    return {
        "type": "scatter",
        "mode": "lines",
        "name": DENSE,
        "x": ends,
        "y": [accuracy, accuracy],
        "line": {"color": DENSE_COLOUR, "dash": "dash", "width": 1},
        "hovertemplate": f"dense {accuracy:.2f} %<extra></extra>",
    }


def _point_text(row: Row) -> str:
    """What a point of the trade-off says when it is pointed at."""
    sparsity = f"sparsity {100 * row['sparsity']:.1f} %"

    lines = [
        f"<b>{row['method']} at {row['ratio']:g}</b>",
        f"accuracy {100 * row['accuracy']:.2f} ± {100 * row['accuracy_ci95']:.2f} %",
        f"drop {100 * row['accuracy_drop']:.2f} ± {100 * row['accuracy_drop_ci95']:.2f}",
        f"before fine-tuning {100 * row['accuracy_pruned']:.2f} %",
        f"{sparsity}, {row['params_nonzero']:,} of {row['params']:,} parameters",
        f"{row['macs']:,} MACs, {row['macs_ratio']:.2f}x fewer",
    ]
    if row["same_as"]:
        lines.append(f"same as {same_as(row['same_as'])}")

    return "<br>".join(lines)


def training(rows: Sequence[Row]) -> list[tuple[str, Chart]]:
    """Accuracy by epoch, in training and on the validation split: a chart per group of curves.

    `rows` are those of plots/training.json. The charts are in the order of the groups' names.
    """
    charts = []
    for group, curves in sorted(by_group(training_curves(rows)).items()):
        charts.append((group, _training_chart(curves)))
    return charts


def _training_chart(curves: Sequence[TrainingCurve]) -> Chart:
    traces = []
    for curve in curves:
        traces.append(_training_trace(curve, "validation_accuracy", curve.name, "solid"))
        trace = _training_trace(curve, "accuracy", f"{curve.name}, training", "dot")
        traces.append(trace | {"showlegend": False})

    return _chart(traces, "epoch", "accuracy, % (solid: validation)")


def _training_trace(curve: TrainingCurve, measure: str, name: str, dash: str) -> Trace:
    percent = _percent(column(curve.rows, measure))

    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": column(curve.rows, "epoch"),
        "y": percent,
        "line": {"color": curve.colour, "dash": dash, "width": 1.5},
        "legendgroup": curve.name,
        "showlegend": True,
    }


def confusion(confusion: Confusion) -> Chart:
    """Shares of every actual class by predicted class; counts when pointed at."""
    # Plotly takes tags in a text for its own.
    classes = [escape(name, quote=False) for name in confusion.classes]

    trace = {
        "type": "heatmap",
        "x": classes,
        "y": classes,
        "z": confusion.shares.tolist(),
        "text": confusion.counts.tolist(),
        "zmin": 0,
        "zmax": 1,
        "colorscale": SHADES,
        "colorbar": {"title": {"text": "share"}, "tickformat": ".0%"},
        "hovertemplate": "%{y} taken for %{x}: %{text}<extra></extra>",
    }

    return _chart(
        [trace], "predicted class", "actual class", xaxis=CATEGORIES, yaxis=CATEGORIES_DOWN
    )


def sensitivity(record: Row) -> list[tuple[str, Chart]]:
    """Per granularity, accuracy against the share removed as a curve per layer and as a heat map.

    `record` is the content of metrics/sensitivity.json.
    """
    charts = []
    for panel in sensitivity_panels(record):
        charts.append((f"{panel.granularity}s, curves", _sensitivity_curves(panel)))
        charts.append((f"{panel.granularity}s, layer by layer", _sensitivity_map(panel)))

    return charts


def _sensitivity_curves(panel: SensitivityPanel) -> Chart:
    traces = [_layer_trace(curve, panel.dense_accuracy) for curve in panel.curves]
    chart = _chart(traces, "removed of the layer, %", "validation accuracy, %, not fine-tuned")
    chart["layout"]["showlegend"] = len(traces) <= MAX_LEGEND
    return chart


def _layer_trace(curve: LayerCurve, dense_accuracy: float) -> Trace:
    line: dict[str, Any] = {"width": 1.3}
    if curve.is_all:
        line = {"color": DENSE_COLOUR, "dash": "dash", "width": 2}

    hover = f"<b>{curve.layer}</b><br>%{{x:.1f}} % removed: %{{y:.2f}} %<extra></extra>"
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": curve.layer,
        "line": line,
        "marker": {"size": 4},
        "x": [0, *_percent(column(curve.rows, "removed"))],
        "y": [100 * dense_accuracy, *_percent(column(curve.rows, "accuracy"))],
        "hovertemplate": hover,
    }


def _sensitivity_map(panel: SensitivityPanel) -> Chart:
    accuracies = []
    for line in panel.heat_map(panel.ratios).tolist():
        # JSON has no NaN; null leaves the cell of the map empty.
        accuracies.append(list(map(_none_if_nan, line)))

    trace = {
        "type": "heatmap",
        "x": [f"{ratio:g}" for ratio in panel.ratios],
        "y": panel.layers,
        "zmin": 0,
        "zmax": 1,
        "z": accuracies,
        "colorscale": SHADES,
        "colorbar": {"title": {"text": "accuracy"}, "tickformat": ".0%"},
        "hovertemplate": "<b>%{y}</b> at %{x}: %{z:.2%}<extra></extra>",
    }

    return _layer_map(trace, "ratio")


def _none_if_nan(value: float) -> float | None:
    return None if isnan(value) else value


def layers_left(details: Mapping[str, Sequence[Row]], measure: str, label: str) -> Chart:
    """What remains of every layer (row) in every configuration (column), as a heat map.

    Args:
        details: By configuration, a row per layer; the layers are the same everywhere.
        measure: "sparsity", or "width" for the share of the dense network's width.
        label: The name of the colours.
    """
    shares, texts = [], []
    for rows in zip(*details.values(), strict=True):  # one layer in every configuration
        shares.append([_layer_share(row, measure) for row in rows])
        texts.append(list(map(_layer_text, rows)))

    trace = {
        "type": "heatmap",
        "x": list(details),
        "y": column(next(iter(details.values())), "layer"),
        "zmin": 0,
        "zmax": 1,
        "colorscale": SHADES,
        "z": shares,
        "text": texts,
        "hovertemplate": "<b>%{y}</b>, %{x}<br>%{text}<extra></extra>",
        "colorbar": {"title": {"text": label}, "tickformat": ".0%"},
    }

    return _layer_map(trace, "")


def _layer_share(row: Row, measure: str) -> float:
    if measure == "width":
        return float(row["width"] / row["width_dense"])
    return float(row[measure])


def _layer_text(row: Row) -> str:
    weights = f"{row['weights_nonzero']:,} non-zero of {row['weights_dense']:,} weights"
    return (
        f"width {row['width']:,} of {row['width_dense']:,}<br>"
        f"{weights}, sparsity {row['sparsity']:.1%}"
    )


def _layer_map(trace: Trace, x: str) -> Chart:
    """A heat map with a named row per layer, the first on top, as high as the names need."""
    chart = _chart([trace], x, "", xaxis=CATEGORIES, yaxis=CATEGORIES_DOWN)
    chart["layout"]["height"] = max(360, 16 * len(trace["y"]) + 160)
    return chart


def weights(histograms: Mapping[str, Row]) -> Chart:
    """The distribution of the non-zero prunable weights, as densities.

    The first few configurations are shown, the others on a click on their names.
    """
    traces: list[Trace] = []
    for name, histogram in histograms.items():
        is_shown = name == DENSE or len(traces) < SHOWN_DISTRIBUTIONS
        traces.append(_density_trace(name, histogram, is_shown))

    chart = _chart(traces, "weight (zeros left out)", "density")
    if len(traces) > MAX_LEGEND:
        # The legend shows and hides the curves, so it must stay. Beside them it can scroll.
        chart["layout"] |= {"showlegend": True, "legend": {"orientation": "v"}}
    return chart


def _density_trace(name: str, histogram: Row, is_shown: bool) -> Trace:
    limit, counts = histogram["limit"], histogram["counts"]
    width = 2 * limit / len(counts)
    total = max(1, sum(counts))

    centers, densities = [], []
    for index, count in enumerate(counts):
        centers.append(-limit + (index + 0.5) * width)
        densities.append(count / total / width)

    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "line": {"shape": "hvh", "width": 1.5},
        "x": centers,
        "y": densities,
        "visible": is_shown or "legendonly",
    }


def latency(rows: Sequence[Row], backend: str, batch_size: int) -> Chart:
    """The distribution of all calls, a box per network.

    Boxes have the quartiles, whiskers end at the 5th and the 95th percentile.
    """
    measured = []
    for row in rows:
        if row["backend"] == backend and row["batch_size"] == batch_size:
            measured.append(row)

    quantiles = list(zip(*column(measured, "latency_ms_quantiles"), strict=True))

    trace = {
        "type": "box",
        "orientation": "h",
        "y": column(measured, "name"),
        "q1": quantiles[25 // QUANTILE_STEP],
        "median": quantiles[50 // QUANTILE_STEP],
        "q3": quantiles[75 // QUANTILE_STEP],
        "lowerfence": quantiles[5 // QUANTILE_STEP],
        "upperfence": quantiles[95 // QUANTILE_STEP],
        "name": f"batch {batch_size}",
        "showlegend": False,
    }

    chart = _chart([trace], "ms per batch", "", yaxis=CATEGORIES_DOWN)
    chart["layout"]["height"] = 26 * len(measured) + 140
    return chart


def operators(rows: Sequence[Row]) -> Chart:
    """The time of every operator in one call, a bar per network.

    It is the time on the GPU if there is any, else on the CPU.
    """
    key, processor = "cpu_ms", "CPU"
    if any(column(rows, "cuda_ms")):
        key, processor = "cuda_ms", "GPU"

    names = list(dict.fromkeys(column(rows, "name")))
    times: dict[str, dict[str, float]] = {}
    for row in rows:
        by_name = times.setdefault(row["operator"], dict.fromkeys(names, 0))
        by_name[row["name"]] += row[key]

    traces = []
    for operator, by_name in times.items():
        x = list(by_name.values())
        traces.append({"type": "bar", "orientation": "h", "name": operator, "y": names, "x": x})

    label = f"{processor} time, ms per call of {rows[0]['batch_size']}"
    chart = _chart(traces, label, "", yaxis=CATEGORIES_DOWN)
    chart["layout"] |= {"barmode": "stack", "height": 26 * len(names) + 220}
    return chart


def _percent(shares: Sequence[float]) -> list[float]:
    return [100 * share for share in shares]


def _chart(
    traces: list[Trace],
    x: str,
    y: str,
    *,
    xaxis: Row | None = None,
    yaxis: Row | None = None,
) -> Chart:
    """A chart with these titles of its axes; `xaxis` and `yaxis` are further settings of Plotly."""
    layout = {
        "xaxis": {"title": {"text": x}, "automargin": True, **(xaxis or {})},
        "yaxis": {"title": {"text": y}, "automargin": True, **(yaxis or {})},
        "legend": {"orientation": "h", "y": -0.25},
        "margin": {"l": 10, "r": 10, "t": 20, "b": 10},
        "height": 380,
    }

    if sum(trace.get("showlegend", True) for trace in traces) > MAX_LEGEND:
        # It would leave no room for the curves, which show their names when pointed at.
        layout["showlegend"] = False

    return {"data": traces, "layout": layout}
