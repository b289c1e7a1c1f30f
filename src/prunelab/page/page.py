"""The report: one HTML file that needs no network, out of everything the pipeline wrote."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunelab.page import charts
from prunelab.page.checklist import ENFORCED, checklist
from prunelab.report.style import DENSE_COLOUR, colour
from prunelab.report.tables import drop, few, with_interval

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Findings:
    """What the page shows: `facts` in words, the grid's cells as `points`, `details` by configuration, dense first."""

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
    """A part of the page: a title, a sentence on how to read it, and charts by name; none for what is no chart."""

    id: str
    title: str
    text: str = ""
    figures: Sequence[tuple[str, charts.Chart]] = ()


def page(found: Findings) -> str:
    """The whole file, Plotly's script included."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(
        Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    )
    known = [
        Section("run", "What was run"),
        Section("checklist", "Can it be believed"),
        Section("table", "Results"),
    ]
    columns, lines = _table(found)
    return template.render(
        title=found.title,
        facts=found.facts,
        sections=[*known, *_sections(found)],
        checklist=checklist(found.dense, found.points, found.facts["measured on"]),
        enforced=ENFORCED,
        columns=columns,
        table=lines,
        note=_note(found.dense),
        measures=_measures(found),
        greys={
            DENSE_COLOUR: "--text",
            colour("random_channel"): "--quiet",
            colour("random_unstructured"): "--faint",
        },
        plotly=Markup(get_plotlyjs()),  # noqa: S704 (the library's own script)
    )


def _sections(found: Findings) -> Iterator[Section]:
    backend = found.speed["latency"][0]["backend"]
    batch = min(row["batch_size"] for row in found.speed["latency"] if row["backend"] == backend)
    timed = {
        row["name"]: row["latency_ms_p50"]
        for row in found.speed["latency"]
        if (row["backend"], row["batch_size"]) == (backend, batch)
    }
    dense = {**found.dense, "latency_ms": timed["dense"]}
    points = [{**row, "latency_ms": timed[row["key"]]} for row in found.points]
    yield Section(
        "tradeoff",
        "Accuracy against cost",
        "Cheaper is to the right. Bars are 95 % intervals; random controls are dotted. MACs are theory, latency was "
        "measured on one machine.",
        [(label.format(batch=batch), charts.tradeoff(dense, points, cost, label.format(batch=batch))) for cost, label
         in charts.SHOWN.items()],
    )  # fmt: skip
    yield Section(
        "training",
        "Training",
        "Means over seeds; dotted is training.",
        charts.training(found.training),
    )
    yield Section(
        "confusion",
        "Confusion of the dense network",
        "Test images, all seeds together.",
        [("dense", charts.confusion(found.confusion, found.classes))],
    )
    skipped = "".join(f" {why}." for why in found.sensitivity["skipped"].values())
    yield Section(
        "sensitivity",
        "Sensitivity",
        "What each layer bears alone, and (dashed) all together, without fine-tuning, on the validation split."
        + skipped,
        charts.sensitivity(found.sensitivity),
    )
    layers = {name: detail["layers"] for name, detail in found.details.items() if name != "dense"}
    yield Section(
        "layers",
        "Layers",
        "What every configuration took from every layer, means over seeds.",
        [
            (
                "sparsity (a thinner layer counts as sparse)",
                charts.layers(layers, "sparsity", "sparsity"),
            ),
            ("width left", charts.layers(layers, "width", "width")),
        ],
    )
    spreads = {name: detail["weights"] for name, detail in found.details.items()}
    yield Section(
        "weights",
        "Weights",
        "Click a name to show or hide it.",
        [("all prunable weights", charts.weights(spreads))],
    )
    timings = dict.fromkeys(
        (row["backend"], row["precision"], row["batch_size"]) for row in found.speed["latency"]
    )
    yield Section(
        "latency",
        "Latency",
        f"All networks took turns. {found.facts['measured on']}.",
        [
            (
                f"{backend}, {precision}, batch {size}",
                charts.latency(found.speed["latency"], backend, size),
            )
            for backend, precision, size in timings
        ],
    )
    yield Section(
        "operators",
        "Operators",
        "By torch.profiler, which slows things down: the shares are what to look at.",
        [("time of one call", charts.operators(found.speed["operators"]))],
    )


def _table(found: Findings) -> tuple[list[str], list[list[str]]]:
    sizes = sorted({row["batch_size"] for row in found.speed["latency"]})
    columns = [
        "configuration",
        "accuracy, %",
        "drop",
        "worst class",
        "calibration",
        "before fine-tuning, %",
    ]
    columns += ["sparsity", "parameters ≠ 0", "MACs", "fewer MACs", "compressed"]
    many = len(found.classes) > 10
    if many:
        columns.insert(2, "top-5, %")
    told = {
        (row["name"], row["batch_size"]): row.get("told", "")
        for row in reversed(found.speed["latency"])
    }
    columns += [*(f"faster, batch {size}" for size in sizes), "same as"]
    lines = []
    for row in ({**found.dense, "key": "dense", "same_as": ""}, *found.points):
        dense = row["key"] == "dense"
        line = [
            row["key"],
            with_interval(row["accuracy"], row["accuracy_ci95"]),
            "" if dense else drop(row),
            "" if dense else f"{100 * row['worst_class_drop']:.1f}",
            f"{100 * row['calibration_error']:.1f} %",
            "" if dense else with_interval(row["accuracy_pruned"], row["accuracy_pruned_ci95"]),
            f"{row['sparsity']:.1%}",
            f"{row['params_nonzero']:,}",
            f"{row['macs']:,}",
            f"{row['macs_ratio']:.2f}x",
            f"{row['size_compressed_bytes'] / 1000:,.0f} kB",
            *(told[row["key"], size] for size in sizes),
            few(row["same_as"]),
        ]
        if many:
            line.insert(2, f"{100 * row['accuracy_top5']:.2f}")
        lines.append(line)
    return columns, lines


def _measures(found: Findings) -> dict[str, list[str]]:
    """A heading and lines: every measure of every configuration, over its seeds alone."""
    names = [row["measure"] for row in found.details["dense"]["measures"]]
    told = {
        name: [_told(row) for row in detail["measures"]] for name, detail in found.details.items()
    }
    return {"configuration": [name.replace("_", " ") for name in names], **told}


def _told(measured: Row) -> str:
    spread = f" ± {measured['ci95']:.4f} (sd {measured['sd']:.4f})" if measured["n"] > 1 else ""
    return f"{measured['mean']:.4f}{spread}"


def _note(dense: Row) -> str:
    covers = (
        f"{dense['seeds']} seeds and the finite test set"
        if dense["seeds"] > 1
        else "the finite test set only"
    )
    return (
        f"Accuracy on the test split after the last epoch; ± is half the 95 % interval, which covers {covers}. Drops "
        'are paired by seed and image; "=" marks one whose interval holds 0. "worst class" is the largest loss of '
        'recall of any class, in percentage points; "calibration" the expected calibration error. "same as" names '
        'methods of the same ratio from which no difference was shown; "faster" is the measured gain on the dense '
        "network with its 95 % interval. Masked weights cost their MACs and their time."
    )
