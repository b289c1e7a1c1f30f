"""The report: one HTML file of everything that the pipeline wrote. It needs no network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunelab.page import charts
from prunelab.page.checklist import ENFORCED, checklist
from prunelab.report.labels import DENSE
from prunelab.report.rows import column
from prunelab.report.series import confusion_of
from prunelab.report.style import DENSE_COLOUR, colour
from prunelab.report.tables import compressed_size, drop, fewer_macs, same_as
from prunelab.statistics.intervals import with_interval

Row = Mapping[str, Any]

MIN_TOP5_CLASSES = 11  # with fewer classes, top-5 accuracy says little

# The greys of the charts, each with the variable of page.html that replaces it on a dark page.
GREYS = {
    DENSE_COLOUR: "--text",
    colour("random_channel"): "--quiet",
    colour("random_unstructured"): "--faint",
}


@dataclass(frozen=True)
class ReportData:
    """What the page shows.

    `facts` are texts by name. `points` are the grid's cells. `details` are by configuration, the
    dense networks first. The other fields are the content of files in metrics/ and plots/.
    """

    title: str
    facts: Mapping[str, str]
    dense: Row
    points: Sequence[Row]
    details: Mapping[str, Mapping[str, Any]]
    training: Sequence[Row]
    confusion: Sequence[Row]
    classes: Sequence[str]
    sensitivity: Mapping[str, Any]
    speed: Mapping[str, Any]


@dataclass(frozen=True)
class Section:
    """A part of the page: a title, a sentence on how to read it, and charts by name.

    A section without charts is written in page.html.
    """

    id: str
    title: str
    text: str = ""
    figures: Sequence[tuple[str, charts.Chart]] = ()


def page(data: ReportData) -> str:
    """The whole file, Plotly's script included."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    template = environment.from_string(source)

    columns, lines = _table(data)
    return template.render(
        title=data.title,
        facts=data.facts,
        sections=_sections(data),
        checklist=checklist(data.dense, data.points, data.facts["measured on"]),
        enforced=ENFORCED,
        columns=columns,
        table=lines,
        note=_note(data.dense["seeds"]),
        measures=_measures(data.details),
        greys=GREYS,
        plotly=Markup(get_plotlyjs()),  # noqa: S704 (the library's own script)
    )


def _sections(data: ReportData) -> list[Section]:
    """All sections in the order of the page; the first three are written in page.html."""
    operators = charts.operators(data.speed["operators"])

    return [
        Section("run", "What was run"),
        Section("checklist", "Can it be believed"),
        Section("table", "Results"),
        _tradeoff_section(data),
        Section(
            "training",
            "Training",
            "Means over seeds; dotted is training.",
            charts.training(data.training),
        ),
        _confusion_section(data),
        _sensitivity_section(data.sensitivity),
        _layers_section(data.details),
        _weights_section(data.details),
        _latency_section(data.speed["latency"], data.facts["measured on"]),
        Section(
            "operators",
            "Operators",
            "By torch.profiler, which slows things down: the shares are what to look at.",
            [("time of one call", operators)],
        ),
    ]


def _tradeoff_section(data: ReportData) -> Section:
    """Every cost against accuracy; latency is that of the first backend's smallest batch size."""
    rows = data.speed["latency"]

    by_batch_size: dict[int, dict[str, float]] = {}
    for row in rows:
        if row["backend"] == rows[0]["backend"]:
            latencies = by_batch_size.setdefault(row["batch_size"], {})
            latencies[row["name"]] = row["latency_ms_p50"]

    batch_size = min(by_batch_size)
    latencies = by_batch_size[batch_size]

    dense = {**data.dense, "latency_ms": latencies[DENSE]}
    points = [{**point, "latency_ms": latencies[point["key"]]} for point in data.points]

    figures = []
    for cost, label in charts.TRADEOFF_COSTS.items():
        name = label.format(batch=batch_size)
        figures.append((name, charts.tradeoff(dense, points, cost, name)))

    text = (
        "Cheaper is to the right. Bars are 95 % intervals; random controls are dotted. "
        "MACs are theory, latency was measured on one machine."
    )
    return Section("tradeoff", "Accuracy against cost", text, figures)


def _confusion_section(data: ReportData) -> Section:
    confusion = confusion_of(data.confusion, data.classes)
    return Section(
        "confusion",
        "Confusion of the dense network",
        "Test images, all seeds together.",
        [(DENSE, charts.confusion(confusion))],
    )


def _sensitivity_section(record: Row) -> Section:
    text = (
        "What each layer bears alone, and (dashed) all together, without fine-tuning, "
        "on the validation split."
    )
    for reason in record["skipped"].values():
        text += f" {reason}."
    return Section("sensitivity", "Sensitivity", text, charts.sensitivity(record))


def _layers_section(details: Mapping[str, Row]) -> Section:
    layers = {}
    for name, detail in details.items():
        if name != DENSE:
            layers[name] = detail["layers"]

    sparsity = charts.layers_left(layers, "sparsity", "sparsity")
    width = charts.layers_left(layers, "width", "width")

    return Section(
        "layers",
        "Layers",
        "What every configuration took from every layer, means over seeds.",
        [("sparsity (a thinner layer counts as sparse)", sparsity), ("width left", width)],
    )


def _weights_section(details: Mapping[str, Row]) -> Section:
    histograms = {name: detail["weights"] for name, detail in details.items()}
    return Section(
        "weights",
        "Weights",
        "Click a name to show or hide it.",
        [("all prunable weights", charts.weights(histograms))],
    )


def _latency_section(rows: Sequence[Row], machine: str) -> Section:
    """A chart for every backend and batch size."""
    figures = {}
    for row in rows:
        backend, precision, batch_size = row["backend"], row["precision"], row["batch_size"]
        name = f"{backend}, {precision}, batch {batch_size}"
        if name not in figures:
            figures[name] = charts.latency(rows, backend, batch_size)

    text = f"All networks took turns. {machine}."
    return Section("latency", "Latency", text, list(figures.items()))


def _table(data: ReportData) -> tuple[list[str], list[list[str]]]:
    """The columns of the table of results, and one line per configuration."""
    speedups: dict[tuple[str, int], str] = {}
    for row in data.speed["latency"]:  # the first backend counts
        speedups.setdefault((row["name"], row["batch_size"]), row.get("told", ""))
    batch_sizes = sorted(set(column(data.speed["latency"], "batch_size")))

    columns = [
        "configuration",
        "accuracy, %",
        "drop",
        "worst class",
        "calibration",
        "before fine-tuning, %",
        "sparsity",
        "parameters ≠ 0",
        "MACs",
        "fewer MACs",
        "compressed",
        *(f"faster, batch {batch_size}" for batch_size in batch_sizes),
        "same as",
    ]

    lines = []
    for row in ({**data.dense, "key": DENSE, "same_as": ""}, *data.points):
        faster = [speedups[row["key"], batch_size] for batch_size in batch_sizes]
        lines.append([*_cells(row), *faster, same_as(row["same_as"])])

    if len(data.classes) >= MIN_TOP5_CLASSES:
        columns.insert(2, "top-5, %")
        for row, line in zip((data.dense, *data.points), lines, strict=True):
            line.insert(2, f"{100 * row['accuracy_top5']:.2f}")

    return columns, lines


def _cells(row: Row) -> list[str]:
    """The cells of a configuration up to its size."""
    drop_from_dense = worst_class = before = ""

    if row["key"] != DENSE:
        drop_from_dense = drop(row)
        worst_class = f"{100 * row['worst_class_drop']:.1f}"
        before = with_interval(row["accuracy_pruned"], row["accuracy_pruned_ci95"])

    return [
        row["key"],
        with_interval(row["accuracy"], row["accuracy_ci95"]),
        drop_from_dense,
        worst_class,
        f"{100 * row['calibration_error']:.1f} %",
        before,
        f"{row['sparsity']:.1%}",
        f"{row['params_nonzero']:,}",
        f"{row['macs']:,}",
        fewer_macs(row),
        compressed_size(row),
    ]


def _measures(details: Mapping[str, Row]) -> dict[str, list[str]]:
    """Every measure of every configuration over its seeds: the names, then a line for each."""
    measures = column(details[DENSE]["measures"], "measure")
    lines = {"configuration": [measure.replace("_", " ") for measure in measures]}

    for configuration, detail in details.items():
        lines[configuration] = list(map(_measure_text, detail["measures"]))
    return lines


def _measure_text(row: Row) -> str:
    text = f"{row['mean']:.4f}"
    if row["n"] > 1:
        text += f" ± {row['ci95']:.4f} (sd {row['sd']:.4f})"
    return text


def _note(seeds: int) -> str:
    covers = "the finite test set only"
    if seeds > 1:
        covers = f"{seeds} seeds and the finite test set"

    return (
        "Accuracy on the test split after the last epoch; ± is half the 95 % interval, which "
        f"covers {covers}. Drops are paired by seed and image; "
        '"=" marks one whose interval holds 0. "worst class" is the largest loss of recall of any '
        'class, in percentage points; "calibration" the expected calibration error. "same as" '
        "names methods of the same ratio from which no difference was shown; "
        '"faster" is the measured gain on the dense network with its 95 % interval. '
        "Masked weights cost their MACs and their time."
    )
