"""What `prunelab study show` prints: our measurements, and every published number beside ours.

Differences between published numbers and ours are computed here and nowhere else.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from textwrap import wrap

from prunelab.commands.studies.published_measures import MEASURES, Measure
from prunelab.commands.studies.scale import FULL
from prunelab.commands.studies.study_file import Row, Study
from prunelab.core.errors import one_line
from prunelab.project.experiments import Record, value_at
from prunelab.report.markdown import escaped_table
from prunelab.report.text_table import MAX_WIDTH, Line, aligned_table

NOT_RUN = "not run"
MEASURED_HEADER = [
    "setting",
    "ratio",
    "achieved",
    "sparsity",
    "parameters",
    "MACs",
    "fewer MACs",
    "dense, %",
    "before fine-tuning, %",
    "accuracy, %",
    "change from dense",
]
COMPARED_HEADER = [
    *("setting", "printed as", "measure"),
    *("printed: dense", "pruned", "change"),
    *("ours: dense", "ours: pruned", "ours: change"),
    "our change less theirs",
]
COMPARED_KEYS = 3  # columns that say what a row is about

Records = Mapping[str, Record | None]


@dataclass(frozen=True)
class Shown:
    """Which results of a study are shown.

    `images` is the number of training images, None for all. `other_scales` holds the settings that
    were measured at scales that are not shown.
    """

    quick: bool = False
    nearest: bool = False
    scale: float = FULL
    images: int | None = None
    other_scales: Mapping[float, list[str]] = field(default_factory=dict)

    @property
    def addition(self) -> str:
        """What the title says beside the study's own, empty for the study as it is."""
        parts = []
        if self.nearest:
            parts.append("the nearest that can be run")
        if self.images is not None:
            parts.append(f"{self.images:,} training images")
        if self.scale != FULL:
            parts.append(f"epochs x {self.scale:g}")
        return ", ".join(parts)


def study_document(study: Study, records: Records, shown: Shown, *, markdown: bool) -> str:
    """Return the title, the source, both tables and the notes of a study."""
    draw: Callable[[Line, list[Line]], str] = aligned_table
    draw_compared: Callable[[Line, list[Line]], str] = partial(aligned_table, keys=COMPARED_KEYS)
    if markdown:
        draw = draw_compared = escaped_table
    heading = "# " if markdown else ""

    title = study.title
    if shown.addition:
        title += f" ({shown.addition})"

    source = f"{study.source.what}, by {study.source.by}"
    if study.source.link:
        source += f", {study.source.link}"

    # The sentences of a study file are Markdown by its author. The names in its tables are not.
    lines = [
        heading + one_line(title),
        "",
        *_folded(f"{source}.", markdown=markdown),
        *_folded(f"Network: {study.network}. Data: {study.data}.", markdown=markdown),
        "",
        draw(*measured_table(records)),
        "",
    ]
    if study.published.rows:
        lines += [draw_compared(*compared_table(study, records)), ""]

    for note in notes(study, records, shown):
        lines += _folded(f"- {note}", markdown=markdown)
    return "\n".join(lines)


def _folded(text: str, *, markdown: bool) -> list[str]:
    """A paragraph as lines: one in Markdown, and in a terminal as many as it takes."""
    line = one_line(text)
    if markdown:
        return [line]
    return wrap(line, MAX_WIDTH, break_on_hyphens=False, break_long_words=False)


def measured_table(records: Records) -> tuple[Line, list[Line]]:
    """One line per setting: the ratio asked and achieved, the cost, and the accuracy."""
    usual = usual_hardware(records)
    return MEASURED_HEADER, [
        _measured_line(label, record, usual) for label, record in records.items()
    ]


def _measured_line(label: str, record: Record | None, usual: str | None) -> Line:
    if record is None:
        return [label, NOT_RUN, *[""] * (len(MEASURED_HEADER) - 2)]

    metrics, dense = record["metrics"], record["dense"]
    mark = "" if record.get("current", True) else " †"
    if hardware_of(record) not in (None, usual):
        mark += " ‡"
    return [
        f"{label}{mark}",
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


def hardware_of(record: Record) -> str | None:
    """Return the name of the processor or card that measured a setting, None if it is unknown."""
    environment = record.get("environment") or {}
    device = environment.get("device")
    return device if isinstance(device, str) else None


def usual_hardware(records: Records) -> str | None:
    """Return the hardware that measured most settings; of equal ones, the first."""
    names = [hardware_of(record) for record in records.values() if record]
    counts = Counter(name for name in names if name)
    if not counts:
        return None
    return counts.most_common(1)[0][0]


def _interval(share: float, half_width: float, sign: str = "") -> str:
    """A share and half its 95 % interval, in percent."""
    return f"{100 * share:{sign}z.2f} ± {100 * half_width:.2f}"


def compared_table(study: Study, records: Records) -> tuple[Line, list[Line]]:
    """One line per published number. A change is pruned less dense, theirs and ours alike."""
    lines = []
    for row in study.published.rows:
        left_out = row.setting is not None and row.setting not in records  # by a quick run
        if not left_out:
            lines += _compared_lines(study, row, records)
    return COMPARED_HEADER, lines


def _compared_lines(study: Study, row: Row, records: Records) -> list[Line]:
    """A line for every number of one published row."""
    published_dense = study.published.dense if row.dense is None else row.dense
    label = f"{row.label} ({row.source})" if row.source else row.label

    lines = []
    for key, pruned in row.values.items():
        measure = MEASURES[key]
        dense = published_dense.get(key)
        their_change = None if dense is None else pruned - dense
        our_cells, our_change = _ours(measure, row, records)

        difference = None
        if our_change is not None and their_change is not None:
            difference = our_change - their_change

        line = [
            row.setting or "",
            label,
            measure.label,
            _number(dense, measure),
            _number(pruned, measure),
            _number(their_change, measure, sign="+"),
            *our_cells,
            _number(difference, measure, sign="+"),
        ]
        lines.append(line)
    return lines


def _ours(measure: Measure, row: Row, records: Records) -> tuple[Line, float | None]:
    """Our dense number, pruned number and change as three cells, and the change as a number."""
    if row.setting is None:
        return ["no such method here", "", ""], None
    if measure.ours is None:
        return ["not compared: a clock on another machine", "", ""], None
    record = records[row.setting]
    if record is None:
        return [NOT_RUN, "", ""], None

    metrics = record["metrics"]
    dense = measure.ours(record["dense"])
    pruned = measure.ours(metrics)
    change = pruned - dense

    if measure is MEASURES["accuracy_percent"]:
        pruned_cell = _interval(metrics["accuracy"], metrics["accuracy_ci95"])
        change_cell = _interval(-metrics["accuracy_drop"], metrics["accuracy_drop_ci95"], sign="+")
    else:
        pruned_cell = _number(pruned, measure)
        change_cell = _number(change, measure, sign="+")

    return [_number(dense, measure), pruned_cell, change_cell], change


def _number(value: float | None, measure: Measure, sign: str = "") -> str:
    if value is None:
        return ""
    return f"{value:{sign}z,.{measure.decimals}f}"


def notes(study: Study, records: Records, shown: Shown) -> list[str]:
    """The sentences that a reader of the tables must know."""
    measured = [record for record in records.values() if record]

    lines = []
    if shown.quick:
        lines.append(
            "A quick run, which says that the code works and nothing about the published numbers: "
            f"{study.quick.note}"
        )

    if shown.nearest and study.nearest:
        lines += [
            f"Not the study as published. {study.nearest.missing}",
            f"In its place: {study.nearest.note}",
        ]
    if shown.scale != FULL:
        lines.append(
            f"All epochs are multiplied by {shown.scale:g} and rounded up, so the dense networks "
            "are trained less than published ones."
        )

    if measured:
        lines.append(_interval_note(measured[0]))
    if any(not record.get("current", True) for record in measured):
        lines.append(
            "† Measured by other code than this commit's; `prunelab study run` measures it again."
        )
    lines += _hardware_notes(records)
    for scale, labels in shown.other_scales.items():
        names = ", ".join(labels)
        lines.append(f"Measured at scale {scale:g} as well (--scale {scale:g}): {names}")
    if any(record["metrics"]["imported"] for record in measured):
        lines.append(
            "The dense weights were imported: they may have been trained on our validation images."
        )

    return lines + study.honest


def _hardware_notes(records: Records) -> list[str]:
    """A sentence if settings were measured on different hardware."""
    usual = usual_hardware(records)
    others: dict[str, list[str]] = {}
    for label, record in records.items():
        name = hardware_of(record) if record else None
        if name not in (None, usual):
            others.setdefault(str(name), []).append(label)

    return [
        f"‡ Measured on {one_line(name)} ({', '.join(labels)}); the others on {usual}."
        for name, labels in others.items()
    ]


def _interval_note(record: Record) -> str:
    """What our numbers and their intervals mean."""
    seeds = record["metrics"]["seeds"]
    split = value_at(record["parameters"], "evaluate.split") or "test"
    if seeds > 1:
        covers = f"covers {seeds} seeds and the finite {split} set"
    else:
        covers = f"is a bootstrap over {split} images, since there is one seed"

    return (
        f"Ours: the last epoch, on the whole {split} split; ± is half the 95 % interval, which "
        f"{covers}. Changes in accuracy are in percentage points and paired by seed. "
        "MACs are theory, not speed."
    )
