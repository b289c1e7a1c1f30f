"""The charts of the page as plain Plotly figures.

They say what is drawn. How it looks in light or dark is up to page.html. What the trade-off, the
training, the confusion and the sensitivity draw is prepared in `report/series.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import isnan, log10
from typing import Any

from prunelab.core.plurals import UNITS
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
from prunelab.report.style import DENSE_COLOUR, marker
from prunelab.report.tables import same_as
from prunelab.report.ticks import round_ticks, short_number

Row = Mapping[str, Any]
Trace = dict[str, Any]  # one curve, as Plotly takes it
Chart = dict[str, Any]  # data and layout, as Plotly takes them

TRADEOFF_COSTS = COSTS | {"latency_ms": LATENCY}
MAP_MARGIN = 210  # pixels for the names below a heat map
ROW_HEIGHT = 18  # pixels of a layer in a heat map
MAX_CURVES_HEIGHT = 700  # pixels
MAX_LAYER_NAME = 30  # characters beside a heat map, of which a phone has room for no more
MAX_OPERATORS = 8  # with bars of their own
OTHERS = "others"
MAX_KEYS = 24  # of a legend; a curve shows its name when pointed at
SHOWN_DISTRIBUTIONS = 3  # the others show on a click
QUANTILE_STEP = 5  # per cent between two stored quantiles of a latency

# The colours of a heat map's ends, which suit a light page and a dark one.
SHADES = [
    [0, "rgba(0, 114, 178, 0.03)"],
    [1, "rgba(0, 114, 178, 1)"],
]
# Curves and bars that have no method of their own: Okabe and Ito's colours, then darker ones.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#7B4FA3", "#8C6D31", "#17808A", "#B2182B"),
)
OTHERS_COLOUR = "#9aa0a6"
# Plotly's names of matplotlib's markers.
SYMBOLS = {
    "o": "circle",
    "s": "square",
    "D": "diamond",
    "^": "triangle-up",
    "v": "triangle-down",
    "P": "cross",
    "X": "x",
}
# Bars and maps with a line per name are higher than a screen, so their scale is on top.
ON_TOP = {"side": "top"}
COLOUR_BAR = {"tickformat": ".0%", "lenmode": "pixels", "len": 200, "y": 1, "yanchor": "top"}
# Layers from the first to the last; legible on a light page and on a dark one.
DEPTH = ((59, 98, 168), (33, 145, 120), (224, 142, 40))
CATEGORIES = {"type": "category"}
NO_GRID = {"showgrid": False}  # it would show through a heat map
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
            "error_y": _intervals(curve.values("accuracy"), curve.values("accuracy_ci95")),
            "text": list(map(_point_text, curve.points)),
            "hovertemplate": "%{text}<extra></extra>",
            "line": {"color": curve.colour, "dash": dash, "width": 1.2 if curve.is_control else 2},
            "marker": {
                "size": 5 if curve.is_control else 7,
                "symbol": SYMBOLS[marker(curve.method)],
            },
            "opacity": 0.6 if curve.is_control else 1,
            "legendrank": 2 if curve.is_control else 1,
        }
        traces.append(trace)

    # What is drawn first lies behind: the dense network, then the controls.
    costs = column([dense, *points], cost)
    traces.sort(key=lambda trace: trace["opacity"])
    traces.insert(0, _dense_trace(100 * dense["accuracy"], costs))

    return _chart(traces, label, "test accuracy, %", xaxis=_log_axis(costs))


def _intervals(accuracies: Sequence[float], half_widths: Sequence[float]) -> dict[str, Any]:
    """Bars of 95 % intervals. They end at 0 and 100 %, which an accuracy cannot leave."""
    above, below = [], []
    for accuracy, half_width in zip(accuracies, half_widths, strict=True):
        above.append(100 * min(half_width, 1 - accuracy))
        below.append(100 * min(half_width, accuracy))

    bars = {"type": "data", "symmetric": False, "array": above, "arrayminus": below}
    return bars | {"thickness": 1, "width": 3}


def _log_axis(values: Sequence[float]) -> dict[str, Any]:
    """A log axis that falls to the right, with ticks that are whole names of values."""
    low, high = min(values) / 1.25, max(values) * 1.25
    ticks = round_ticks(low, high)

    return {
        "type": "log",
        "range": [log10(high), log10(low)],
        "tickvals": ticks,
        "ticktext": list(map(short_number, ticks)),
    }


def _dense_trace(accuracy: float, costs: Sequence[float]) -> Trace:
    """The dense network as a level line across all costs; `accuracy` in per cent."""
    ends = [max(costs) * 1.2, min(costs) / 1.2]

    return {
        "type": "scatter",
        "mode": "lines",
        "name": DENSE,
        "legendrank": 3,
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
        traces.append(_training_trace(curve, "accuracy", f"{curve.name}, training", "dot"))

    return _chart(traces, "epoch", "accuracy, % (solid: validation)")


def _training_trace(curve: TrainingCurve, measure: str, name: str, dash: str) -> Trace:
    percent = _percent(column(curve.rows, measure))
    # A line through the point of a single epoch would not be seen.
    mode = "lines" if len(curve.rows) > 1 else "lines+markers"

    return {
        "type": "scatter",
        "mode": mode,
        "name": name,
        "x": column(curve.rows, "epoch"),
        "y": percent,
        "line": {"color": curve.colour, "dash": dash, "width": 1.5},
        "legendgroup": curve.name,
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
        "colorbar": COLOUR_BAR | {"title": {"text": "share"}},
        "hovertemplate": "%{y} taken for %{x}: %{text}<extra></extra>",
    }

    axes = {"xaxis": CATEGORIES | NO_GRID, "yaxis": CATEGORIES_DOWN | NO_GRID}
    chart = _chart([trace], "predicted class", "actual class", **axes)
    chart["layout"]["height"] = 480
    return chart


def sensitivity(record: Row) -> list[list[tuple[str, Chart]]]:
    """Per granularity, accuracy against the share removed as a curve per layer and as a heat map.

    `record` is the content of metrics/sensitivity.json.
    """
    rows = []
    for panel in sensitivity_panels(record):
        units = UNITS[panel.granularity]
        curves, heat_map = _sensitivity_curves(panel), _sensitivity_map(panel)

        # Two charts of a row have one height, up to that from which a card scrolls.
        curves["layout"]["height"] = min(heat_map["layout"]["height"], MAX_CURVES_HEIGHT)
        rows.append([(f"{units}, curves", curves), (f"{units}, layer by layer", heat_map)])

    return rows


def _sensitivity_curves(panel: SensitivityPanel) -> Chart:
    traces = []
    last = max(1, len(panel.curves) - 1)
    for index, curve in enumerate(panel.curves):
        traces.append(_layer_trace(curve, panel.dense_accuracy, _depth_colour(index / last)))
    return _chart(traces, "removed of the layer, %", "validation accuracy, %")


def _depth_colour(depth: float) -> str:
    """The colour of a layer; `depth` is 0 for the first layer and 1 for the last."""
    start = min(int(depth * (len(DEPTH) - 1)), len(DEPTH) - 2)
    share = depth * (len(DEPTH) - 1) - start

    mixed = []
    for before, after in zip(DEPTH[start], DEPTH[start + 1], strict=True):
        mixed.append(round(before + share * (after - before)))
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def _layer_trace(curve: LayerCurve, dense_accuracy: float, colour: str) -> Trace:
    line: dict[str, Any] = {"color": colour, "width": 1.3}
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
        "colorbar": COLOUR_BAR | {"title": {"text": "accuracy"}},
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
        "colorbar": COLOUR_BAR | {"title": {"text": label}},
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
    layers = trace["y"]
    names = {"tickvals": layers, "ticktext": short_names(layers)}
    height = max(340, ROW_HEIGHT * len(layers) + MAP_MARGIN)
    # A longer bar would end below the chart.
    trace["colorbar"] |= {"len": min(trace["colorbar"]["len"], height - MAP_MARGIN)}

    xaxis, yaxis = CATEGORIES | ON_TOP | NO_GRID, CATEGORIES_DOWN | NO_GRID | names
    chart = _chart([trace], x, "", xaxis=xaxis, yaxis=yaxis)
    chart["layout"]["height"] = height
    return chart


def short_names(layers: Sequence[str]) -> list[str]:
    """Return `e.l.0.output.dense` for `encoder.layer.0.output.dense`, if names are too long.

    All names have as many of their first parts as initials, as few as make the longest one fit.
    Numbers and last parts stay.
    """
    most_parts = max((layer.count(".") for layer in layers), default=0)
    names = list(layers)
    for initials in range(1, most_parts + 1):
        if max(map(len, names)) <= MAX_LAYER_NAME:
            break
        names = [_with_initials(layer, initials) for layer in layers]
    return names


def _with_initials(layer: str, count: int) -> str:
    *parts, last = layer.split(".")
    short = [part if part.isdigit() else part[:1] for part in parts[:count]]
    return ".".join([*short, *parts[count:], last])


def weights(histograms: Mapping[str, Row]) -> Chart:
    """The distribution of the non-zero prunable weights, as densities.

    The first few configurations are shown, the others on a click on their names.
    """
    traces: list[Trace] = []
    for index, (name, histogram) in enumerate(histograms.items()):
        is_shown = name == DENSE or index < SHOWN_DISTRIBUTIONS
        colour = DENSE_COLOUR if name == DENSE else COLOURS[index % len(COLOURS)]
        traces.append(_density_trace(name, histogram, is_shown, colour))

    return _chart(traces, "weight (zeros left out)", "density")


def _density_trace(name: str, histogram: Row, is_shown: bool, colour: str) -> Trace:
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
        "line": {"color": colour, "shape": "hvh", "width": 1.5},
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

    chart = _chart([trace], "ms per batch", "", xaxis=ON_TOP, yaxis=CATEGORIES_DOWN)
    chart["layout"]["height"] = 22 * len(measured) + 90
    return chart


def operators(rows: Sequence[Row]) -> Chart:
    """The time of the longest operators in one call, and of all others together.

    It is the time on the GPU if there is any, else on the CPU.
    """
    key, processor = "cpu_ms", "CPU"
    if any(column(rows, "cuda_ms")):
        key, processor = "cuda_ms", "GPU"

    names = list(dict.fromkeys(column(rows, "name")))
    longest = _longest_operators(rows, key)
    times: dict[str, dict[str, float]] = {}
    for operator in (*longest, OTHERS):
        times[operator] = dict.fromkeys(names, 0)
    for row in rows:
        operator = row["operator"] if row["operator"] in longest else OTHERS
        times[operator][row["name"]] += row[key]

    traces = []
    for index, (operator, by_name) in enumerate(times.items()):
        trace = {
            "type": "bar",
            "orientation": "h",
            "name": operator,
            "y": names,
            "x": list(by_name.values()),
            "marker": {"color": OTHERS_COLOUR if operator == OTHERS else COLOURS[index]},
        }
        traces.append(trace)

    label = f"{processor} ms per call of {rows[0]['batch_size']}"
    chart = _chart(traces, label, "", xaxis=ON_TOP, yaxis=CATEGORIES_DOWN)
    chart["layout"] |= {"barmode": "stack", "height": 22 * len(names) + 120}
    return chart


def _longest_operators(rows: Sequence[Row], key: str) -> list[str]:
    totals: dict[str, float] = {}
    for row in rows:
        if row["operator"] != OTHERS:
            totals[row["operator"]] = totals.get(row["operator"], 0) + row[key]
    return sorted(totals, key=lambda operator: -totals[operator])[:MAX_OPERATORS]


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
        "showlegend": False,  # the page names curves above a row of charts, see `legend`
        "margin": {"l": 10, "r": 10, "t": 10, "b": 10},
        "height": 340,
    }
    return {"data": traces, "layout": layout}


@dataclass(frozen=True)
class Key:
    """One entry of a legend: the curves of this name, how they look, and whether they show."""

    name: str
    colour: str
    dash: str
    shown: bool


def legend(charts: Sequence[Chart]) -> list[Key]:
    """What names the curves and bars of a row of charts, each once; heat maps and boxes need none.

    Curves of one `legendgroup` have one entry, which looks like the first of them. Entries are in
    the order of `legendrank`, which is 1 unless a trace says otherwise. There is none if there are
    more than `MAX_KEYS`, unless some curves are hidden: only the legend can show them.
    """
    keys: dict[str, Key] = {}
    for chart in charts:
        for trace in sorted(chart["data"], key=lambda trace: trace.get("legendrank", 1)):
            name = trace.get("legendgroup", trace.get("name", ""))
            look = trace.get("line") or trace.get("marker") or {}
            if "color" in look and name not in keys:
                shown = trace.get("visible", True) is True
                keys[name] = Key(name, look["color"], look.get("dash", "solid"), shown)

    if len(keys) > MAX_KEYS and all(key.shown for key in keys.values()):
        return []
    return list(keys.values())
