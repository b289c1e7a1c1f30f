"""A study's tables: what was measured, and every printed number beside ours. Differences are computed here alone."""

from collections.abc import Iterator, Mapping

from prunelab.commands.studies.published_measures import MEASURES, Measure, Metrics
from prunelab.commands.studies.study_file import Row, Study
from prunelab.project.experiments import Record
from prunelab.report.text_table import Line

NOT_RUN = "not run"
MEASURED = [
    "setting", "ratio", "achieved", "sparsity", "parameters", "MACs", "fewer MACs", "dense, %", "before fine-tuning, %",
    "accuracy, %", "change from dense",
]  # fmt: skip
COMPARED = [
    "setting", "printed as", "measure", "printed: dense", "pruned", "change", "ours: dense", "pruned", "change",
    "our change less theirs",
]  # fmt: skip


def measured_table(records: Mapping[str, Record | None]) -> tuple[Line, list[Line]]:
    """One line per setting: what was asked, what was achieved, at what cost, and how well it does."""
    return MEASURED, [_measured(label, record) for label, record in records.items()]


def _measured(label: str, record: Record | None) -> Line:
    if record is None:
        return [label, NOT_RUN, *[""] * (len(MEASURED) - 2)]
    metrics, dense = record["metrics"], record["dense"]
    return [
        label if record.get("current", True) else f"{label} †",
        f"{metrics['ratio_asked']:g}",
        f"{metrics['ratio_achieved']:.4f}",
        f"{100 * metrics['sparsity']:.1f} %",
        f"{metrics['params']:,}",
        f"{metrics['macs']:,}",
        f"{metrics['macs_ratio']:.2f}x",
        _interval(dense["accuracy"], dense["accuracy_ci95"]),
        _interval(metrics["accuracy_pruned"], metrics["accuracy_pruned_ci95"]),
        _interval(metrics["accuracy"], metrics["accuracy_ci95"]),
        _interval(-metrics["accuracy_drop"], metrics["accuracy_drop_ci95"], sign="+"),
    ]


def _interval(share: float, half_width: float, sign: str = "") -> str:
    return f"{100 * share:{sign}z.2f} ± {100 * half_width:.2f}"


def compared_table(study: Study, records: Mapping[str, Record | None]) -> tuple[Line, list[Line]]:
    """One line per printed number. A change is pruned less dense, on either side; only like measures are compared."""
    return COMPARED, [
        line for row in study.published.rows for line in _compared(study, row, records)
    ]


def _compared(study: Study, row: Row, records: Mapping[str, Record | None]) -> Iterator[Line]:
    if row.setting is not None and row.setting not in records:
        return  # a quick run leaves it out
    record = records[row.setting] if row.setting else None
    dense = study.published.dense if row.dense is None else row.dense
    label = f"{row.label} ({row.source})" if row.source else row.label
    for key, printed in row.values.items():
        measure = MEASURES[key]
        before = dense.get(key)
        theirs = None if before is None else printed - before
        ours = _ours(measure, record) if row.setting else (["no such method here", "", ""], None)
        yield [
            row.setting or "",
            label,
            measure.label,
            _number(before, measure),
            _number(printed, measure),
            _number(theirs, measure, sign="+"),
            *ours[0],
            _number(ours[1] - theirs, measure, sign="+")
            if ours[1] is not None and theirs is not None
            else "",
        ]


def _ours(measure: Measure, record: Record | None) -> tuple[Line, float | None]:
    """Our dense and pruned numbers and their change as text, and the change."""
    if measure.ours is None:
        return ["not compared: a clock on another machine", "", ""], None
    if record is None:
        return [NOT_RUN, "", ""], None
    dense, pruned = measure.ours(record["dense"]), measure.ours(record["metrics"])
    told = [
        _number(dense, measure),
        _number(pruned, measure),
        _number(pruned - dense, measure, sign="+"),
    ]
    if measure is MEASURES["accuracy_percent"]:
        told[1] = _interval(record["metrics"]["accuracy"], record["metrics"]["accuracy_ci95"])
        told[2] = _interval(
            -record["metrics"]["accuracy_drop"], record["metrics"]["accuracy_drop_ci95"], sign="+"
        )
    return told, pruned - dense


def _number(value: float | None, measure: Measure, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}z,.{measure.decimals}f}"


def notes(study: Study, records: Mapping[str, Record | None], quick: bool) -> list[str]:
    """What a reader of the tables must know."""
    run = [record for record in records.values() if record]
    told = []
    if quick:
        told.append(
            f"A quick run, which says that the code works and nothing about the published numbers: {study.quick.note}"
        )
    if run:
        told.append(_covers(run[0]["metrics"]))
    if any(not record.get("current", True) for record in run):
        told.append(
            "† Measured by other code than this commit's; `prunelab study run` measures it anew."
        )
    if any(record["metrics"]["imported"] for record in run):
        told.append(
            "The dense weights were imported: they may have been trained on our validation images."
        )
    return told + study.honest


def _covers(metrics: Metrics) -> str:
    seeds = metrics["seeds"]
    several = f"covers {seeds} seeds and the finite test set"
    covers = several if seeds > 1 else "is a bootstrap over test images, there being one seed"
    return (
        "Ours: the last epoch, on the whole test split; ± is half the 95 % interval, which "
        f"{covers}. Changes in accuracy are in percentage points and paired by seed. MACs are theory, not speed."
    )
