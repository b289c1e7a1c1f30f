"""The report's charts as plain Plotly figures: what is drawn, not how it looks in light or dark."""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Any

from prunelab.artifacts.records import ALL
from prunelab.report.costs import COSTS
from prunelab.report.rows import matrix_of
from prunelab.report.style import DENSE_COLOUR as DENSE
from prunelab.report.style import colour, is_control
from prunelab.report.tables import few

Row = Mapping[str, Any]
Chart = dict[str, Any]  # data and layout, as Plotly takes them

SHOWN = COSTS | {"latency_ms": "latency, ms, at batch size {batch}"}
LEGIBLE = 24  # curves that a legend can still name
SHADES = [
    [0, "rgba(0, 114, 178, 0.03)"],
    [1, "rgba(0, 114, 178, 1)"],
]  # on a light page and on a dark one


def tradeoff(dense: Row, points: Sequence[Row], cost: str, label: str) -> Chart:
    """Test accuracy against a cost on a log axis that falls to the right, a line per method, the dense net's dashed."""
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": method,
            "x": [row[cost] for row in own],
            "y": [100 * row["accuracy"] for row in own],
            "error_y": {
                "type": "data",
                "array": [100 * row["accuracy_ci95"] for row in own],
                "thickness": 1,
            },
            "text": [_hover(row) for row in own],
            "hovertemplate": "%{text}<extra></extra>",
            "line": {"color": colour(method), "dash": "dot" if is_control(method) else "solid"},
        }
        for method, own in _by_method(points)
    ]
    costs = [row[cost] for row in (dense, *points)]
    level, limits = 100 * dense["accuracy"], [max(costs) * 1.2, min(costs) / 1.2]
    traces.append(
        {
            "type": "scatter", "mode": "lines", "name": "dense", "x": limits, "y": [level, level],
            "line": {"color": DENSE, "dash": "dash", "width": 1},
            "hovertemplate": f"dense {level:.2f} %<extra></extra>",
        }
    )  # fmt: skip
    return _chart(
        traces,
        label,
        "test accuracy, %",
        xaxis={"type": "log", "autorange": "reversed", "dtick": "D2"},
    )


def _by_method(points: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    methods = dict.fromkeys(row["method"] for row in points)
    return [
        (m, sorted((r for r in points if r["method"] == m), key=lambda row: row["ratio"]))
        for m in methods
    ]


def _hover(row: Row) -> str:
    lines = [
        f"<b>{row['method']} at {row['ratio']:g}</b>",
        f"accuracy {100 * row['accuracy']:.2f} ± {100 * row['accuracy_ci95']:.2f} %",
        f"drop {100 * row['accuracy_drop']:.2f} ± {100 * row['accuracy_drop_ci95']:.2f}",
        f"before fine-tuning {100 * row['accuracy_pruned']:.2f} %",
        f"sparsity {100 * row['sparsity']:.1f} %, {row['params_nonzero']:,} of {row['params']:,} parameters",
        f"{row['macs']:,} MACs, {row['macs_ratio']:.2f}x fewer",
    ]
    return "<br>".join([*lines, f"same as {few(row['same_as'])}"] if row["same_as"] else lines)


def training(rows: Sequence[Row]) -> list[tuple[str, Chart]]:
    """Accuracy by epoch, in training and on the validation split, one chart per group of curves."""
    ordered = sorted(rows, key=lambda row: row["group"])
    return [
        (group, _training(list(own)))
        for group, own in groupby(ordered, key=lambda row: row["group"])
    ]


def _training(rows: Sequence[Row]) -> Chart:
    traces = []
    for name in dict.fromkeys(row["name"] for row in rows):
        own = [row for row in rows if row["name"] == name]
        for key, dash in (("validation_accuracy", "solid"), ("accuracy", "dot")):
            traces.append(
                {
                    "type": "scatter", "mode": "lines",
                    "name": name if key == "validation_accuracy" else f"{name}, training",
                    "x": [row["epoch"] for row in own], "y": [100 * row[key] for row in own],
                    "line": {"color": DENSE if name == "dense" else colour(name), "dash": dash, "width": 1.5},
                    "legendgroup": name, "showlegend": key == "validation_accuracy",
                }
            )  # fmt: skip
    return _chart(traces, "epoch", "accuracy, % (solid: validation)")


def confusion(rows: Sequence[Row], names: Sequence[str]) -> Chart:
    """Shares of every actual class by predicted class; counts on hover."""
    counts = matrix_of(rows, len(names)).tolist()
    shares = [[count / max(1, sum(line)) for count in line] for line in counts]
    shown = [escape(name, quote=False) for name in names]  # Plotly takes tags in a text for its own
    trace = {
        "type": "heatmap", "x": shown, "y": shown, "z": shares, "text": counts, "zmin": 0, "zmax": 1,
        "colorscale": SHADES, "colorbar": {"title": {"text": "share"}, "tickformat": ".0%"},
        "hovertemplate": "%{y} taken for %{x}: %{text}<extra></extra>",
    }  # fmt: skip
    return _chart(
        [trace],
        "predicted class",
        "actual class",
        xaxis={"type": "category"},
        yaxis={"type": "category", "autorange": "reversed"},
    )


def sensitivity(record: Row) -> list[tuple[str, Chart]]:
    """Accuracy against the share removed: a curve per layer alone and one of all together, then the same as a map."""
    drawn = []
    for kind in dict.fromkeys(row["granularity"] for row in record["rows"]):
        rows = [row for row in record["rows"] if row["granularity"] == kind]
        drawn += [
            (f"{kind}s, curves", _bearing(rows, record["accuracy"])),
            (f"{kind}s, layer by layer", _map(rows)),
        ]
    return drawn


def _bearing(rows: Sequence[Row], dense: float) -> Chart:
    traces = []
    for layer in dict.fromkeys(row["layer"] for row in rows):
        own = [row for row in rows if row["layer"] == layer]
        line = {"color": DENSE, "dash": "dash", "width": 2} if layer == ALL else {"width": 1.3}
        traces.append(
            {
                "type": "scatter", "mode": "lines+markers", "name": layer, "line": line, "marker": {"size": 4},
                "x": [0, *(100 * row["removed"] for row in own)],
                "y": [100 * dense, *(100 * row["accuracy"] for row in own)],
                "hovertemplate": f"<b>{layer}</b><br>%{{x:.1f}} % removed: %{{y:.2f}} %<extra></extra>",
            }
        )  # fmt: skip
    chart = _chart(traces, "removed of the layer, %", "validation accuracy, %, not fine-tuned")
    chart["layout"]["showlegend"] = len(traces) <= LEGIBLE
    return chart


def _map(rows: Sequence[Row]) -> Chart:
    names, ratios = (list(dict.fromkeys(row[key] for row in rows)) for key in ("layer", "ratio"))
    found = {(row["layer"], row["ratio"]): row["accuracy"] for row in rows}
    trace = {
        "type": "heatmap", "x": [f"{ratio:g}" for ratio in ratios], "y": names, "zmin": 0, "zmax": 1,
        "z": [[found.get((name, ratio)) for ratio in ratios] for name in names], "colorscale": SHADES,
        "colorbar": {"title": {"text": "accuracy"}, "tickformat": ".0%"},
        "hovertemplate": "<b>%{y}</b> at %{x}: %{z:.2%}<extra></extra>",
    }  # fmt: skip
    return _tall(trace, len(names), "ratio")


def layers(details: Mapping[str, Sequence[Row]], key: str, label: str) -> Chart:
    """One value of every layer (row) in every configuration (column), as a heat map."""
    names = [row["layer"] for row in next(iter(details.values()))]
    shares = {
        "sparsity": lambda row: row["sparsity"],
        "width": lambda row: row["width"] / row["width_dense"],
    }
    trace = {
        "type": "heatmap", "x": list(details), "y": names, "zmin": 0, "zmax": 1, "colorscale": SHADES,
        "z": [[shares[key](rows[index]) for rows in details.values()] for index in range(len(names))],
        "text": [[_layer(rows[index]) for rows in details.values()] for index in range(len(names))],
        "hovertemplate": "<b>%{y}</b>, %{x}<br>%{text}<extra></extra>",
        "colorbar": {"title": {"text": label}, "tickformat": ".0%"},
    }  # fmt: skip
    return _tall(trace, len(names), "")


def _tall(trace: Chart, rows: int, x: str) -> Chart:
    """A heat map of so many named rows, the first on top."""
    chart = _chart(
        [trace],
        x,
        "",
        xaxis={"type": "category"},
        yaxis={"type": "category", "autorange": "reversed"},
    )
    chart["layout"]["height"] = max(360, 16 * rows + 160)
    return chart


def _layer(row: Row) -> str:
    return (
        f"width {row['width']:,} of {row['width_dense']:,}<br>"
        f"{row['weights_nonzero']:,} non-zero of {row['weights_dense']:,} weights, sparsity {row['sparsity']:.1%}"
    )


def weights(spreads: Mapping[str, Row]) -> Chart:
    """How the non-zero prunable weights are spread, as densities; all but the dense net's are shown on a click."""
    traces: list[dict[str, Any]] = []
    for name, spread in spreads.items():
        width = 2 * spread["limit"] / len(spread["counts"])
        total = max(1, sum(spread["counts"]))
        traces.append(
            {
                "type": "scatter", "mode": "lines", "name": name, "line": {"shape": "hvh", "width": 1.5},
                "x": [-spread["limit"] + (index + 0.5) * width for index in range(len(spread["counts"]))],
                "y": [count / total / width for count in spread["counts"]],
                "visible": True if name == "dense" or len(traces) < 3 else "legendonly",
            }
        )  # fmt: skip
    chart = _chart(traces, "weight (zeros left out)", "density")
    if len(traces) > LEGIBLE:  # what shows and hides the curves must stay: beside them it scrolls
        chart["layout"] |= {"showlegend": True, "legend": {"orientation": "v"}}
    return chart


def latency(rows: Sequence[Row], backend: str, batch_size: int) -> Chart:
    """The distribution of all calls: quartiles in the box, the 5th and 95th percentile at the whiskers' ends."""
    own = [row for row in rows if row["backend"] == backend and row["batch_size"] == batch_size]
    at = {
        share: [row["latency_ms_quantiles"][share // 5] for row in own]
        for share in (5, 25, 50, 75, 95)
    }
    trace = {
        "type": "box", "orientation": "h", "y": [row["name"] for row in own], "q1": at[25], "median": at[50],
        "q3": at[75], "lowerfence": at[5], "upperfence": at[95], "name": f"batch {batch_size}", "showlegend": False,
    }  # fmt: skip
    chart = _chart([trace], "ms per batch", "", yaxis={"type": "category", "autorange": "reversed"})
    chart["layout"]["height"] = 26 * len(own) + 140
    return chart


def operators(rows: Sequence[Row]) -> Chart:
    """Where the time of one call goes, a bar per network."""
    key = "cuda_ms" if any(row["cuda_ms"] for row in rows) else "cpu_ms"
    names = list(dict.fromkeys(row["name"] for row in rows))
    traces = [
        {
            "type": "bar", "orientation": "h", "name": operator, "y": names,
            "x": [sum(r[key] for r in rows if r["name"] == n and r["operator"] == operator) for n in names],
        }
        for operator in dict.fromkeys(row["operator"] for row in rows)
    ]  # fmt: skip
    label = f"{'GPU' if key == 'cuda_ms' else 'CPU'} time, ms per call of {rows[0]['batch_size']}"
    chart = _chart(traces, label, "", yaxis={"type": "category", "autorange": "reversed"})
    chart["layout"] |= {"barmode": "stack", "height": 26 * len(names) + 220}
    return chart


def _chart(
    data: list[dict[str, Any]],
    x: str,
    y: str,
    *,
    xaxis: Row | None = None,
    yaxis: Row | None = None,
) -> Chart:
    layout = {
        "xaxis": {"title": {"text": x}, "automargin": True, **(xaxis or {})},
        "yaxis": {"title": {"text": y}, "automargin": True, **(yaxis or {})},
        "legend": {"orientation": "h", "y": -0.25},
        "margin": {"l": 10, "r": 10, "t": 20, "b": 10},
        "height": 380,
    }
    if sum(trace.get("showlegend", True) for trace in data) > LEGIBLE:
        layout["showlegend"] = (
            False  # it would leave no room for the curves, which say their names when pointed at
        )
    return {"data": data, "layout": layout}
