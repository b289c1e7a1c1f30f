"""The report: one HTML file of everything that the pipeline wrote. It needs no network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunelab.page import charts
from prunelab.page.checklist import ENFORCED, checklist
from prunelab.page.downloads import Download, download
from prunelab.page.findings import findings
from prunelab.page.results_table import results_table
from prunelab.page.searches import search_sections
from prunelab.report.labels import DENSE
from prunelab.report.rows import column
from prunelab.report.series import confusion_of
from prunelab.report.style import CONTROL_COLOURS, DENSE_COLOUR

Row = Mapping[str, Any]

# The greys of the charts, each with the variable of page.html that replaces it on a dark page.
FAINT_GREY, QUIET_GREY = CONTROL_COLOURS
GREYS = {DENSE_COLOUR: "--text", QUIET_GREY: "--quiet", FAINT_GREY: "--faint"}


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
    searches: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class FigureRow:
    """Charts by name that stand side by side, and the legend of all of them.

    A chart whose name is empty is named by its axes. `narrow` is for a single chart that would
    look odd across the page.
    """

    figures: Sequence[tuple[str, charts.Chart]]
    narrow: bool = False

    @property
    def legend(self) -> list[charts.Key]:
        """What names the curves of the charts."""
        return charts.legend([chart for _, chart in self.figures])


@dataclass(frozen=True)
class Section:
    """A part of the page: a title, a sentence on how to read it, rows of charts, and their data."""

    id: str
    title: str
    text: str
    rows: Sequence[FigureRow]
    downloads: Sequence[Download]


def page(data: ReportData) -> str:
    """The whole file, Plotly's script included."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(_own_file("page.html"))

    latency, device = data.speed["latency"], data.facts["measured on"]
    return template.render(
        title=data.title,
        facts=data.facts,
        findings=findings(data.dense, data.points, latency, device),
        covers=_covers(data.dense["seeds"]),
        tradeoff=_tradeoff_section(data),
        sections=_sections(data),
        checklist=checklist(data.dense, data.points, device),
        enforced=ENFORCED,
        table=results_table(data.dense, data.points, latency, len(data.classes)),
        table_data=download("results", [{**data.dense, "method": DENSE}, *data.points]),
        measures=_measures(data.details),
        greys=GREYS,
        style=Markup(_own_file("page.css")),  # noqa: S704 (our own file)
        script=Markup(_own_file("page.js")),  # noqa: S704 (our own file)
        plotly=Markup(get_plotlyjs()),  # noqa: S704 (the library's own script)
    )


def _own_file(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _covers(seeds: int) -> str:
    """What an interval covers."""
    if seeds > 1:
        return f"{seeds} seeds and the finite test set"
    return "the finite test set only: there is one seed"


def _sections(data: ReportData) -> list[Section]:
    """The sections after the table of results, in the order of the page."""
    return [
        _latency_section(data.speed, data.facts["measured on"]),
        _layers_section(data.details),
        *_training_sections(data.training),
        _sensitivity_section(data.sensitivity),
        _confusion_section(data),
        *_search_sections(data.searches),
    ]


def _training_sections(rows: Sequence[Row]) -> list[Section]:
    """The curves of all trainings. There is nothing to show if all had 0 epochs."""
    if not rows:
        return []

    text = "Mean over seeds. Solid lines are the validation split, dotted lines the training."
    figures = FigureRow(charts.training(rows))
    return [Section("training", "Training", text, [figures], [download("training", rows)])]


def _search_sections(searches: Sequence[Row]) -> list[Section]:
    sections = []
    for identifier, title, text, figures, found in search_sections(searches):
        rows = [FigureRow([figure]) for figure in figures]
        sections.append(Section(identifier, title, text, rows, [download(identifier, found)]))
    return sections


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
        figures.append(("", charts.tradeoff(dense, points, cost, name)))

    text = (
        "Cheaper is to the right. Bars are 95 % intervals. Random controls are grey and dotted. "
        "MACs are theory; latency was measured on one machine."
    )
    table = download("tradeoff", points)
    return Section("tradeoff", "Accuracy against cost", text, [FigureRow(figures)], [table])


def _confusion_section(data: ReportData) -> Section:
    confusion = confusion_of(data.confusion, data.classes)

    named = []
    for row in data.confusion:
        actual, predicted = data.classes[row["actual"]], data.classes[row["predicted"]]
        named.append({**row, "actual_class": actual, "predicted_class": predicted})

    return Section(
        "confusion",
        "Confusion of the dense network",
        "Test split, all seeds together.",
        [FigureRow([("", charts.confusion(confusion))], narrow=True)],
        [download("confusion", named)],
    )


def _sensitivity_section(record: Row) -> Section:
    text = (
        "Accuracy on the validation split after one layer alone is pruned, and (dashed) all "
        "layers together. Nothing is fine-tuned. Colours run from the first layer (blue) to the "
        "last (orange)."
    )
    for reason in record["skipped"].values():
        text += f" {reason}."

    rows = [FigureRow(figures) for figures in charts.sensitivity(record)]
    table = download("sensitivity", record["rows"])
    return Section("sensitivity", "Sensitivity", text, rows, [table])


def _layers_section(details: Mapping[str, Row]) -> Section:
    layers, layer_rows, weight_rows = {}, [], []
    for name, detail in details.items():
        weight_rows.append({"configuration": name, **detail["weights"]})
        for row in detail["layers"]:
            layer_rows.append({"configuration": name, **row})
        if name != DENSE:
            layers[name] = detail["layers"]

    shares = [
        ("width left", charts.layers_left(layers, "width", "width")),
        (
            "sparsity (a thinner layer counts as sparse)",
            charts.layers_left(layers, "sparsity", "sparsity"),
        ),
    ]
    histograms = {name: detail["weights"] for name, detail in details.items()}
    weights = [("non-zero prunable weights", charts.weights(histograms))]

    return Section(
        "layers",
        "Layers and weights",
        "What every configuration took from every layer, mean over seeds.",
        [FigureRow(shares), FigureRow(weights)],
        [download("layers", layer_rows), download("weights", weight_rows)],
    )


def _latency_section(speed: Row, machine: str) -> Section:
    """A chart for every backend and batch size, and the time of every operator."""
    figures = {}
    for row in speed["latency"]:
        backend, precision, batch_size = row["backend"], row["precision"], row["batch_size"]
        name = f"{backend}, {precision}, batch {batch_size}"
        if name not in figures:
            figures[name] = charts.latency(speed["latency"], backend, batch_size)
    operators = charts.operators(speed["operators"])

    text = (
        f"Measured on {machine}; all networks took turns. Boxes are quartiles, whiskers the 5th "
        "and 95th percentile. Operators are timed by torch.profiler, which slows calls down: "
        "read their shares."
    )
    return Section(
        "latency",
        "Latency",
        text,
        [FigureRow(list(figures.items())), FigureRow([("operators in one call", operators)])],
        [download("latency", speed["latency"]), download("operators", speed["operators"])],
    )


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
