"""The results in a review: lines on accuracy and cost, a row per configuration, every metric."""

from collections.abc import Sequence
from typing import Any

from prunelab.commands.review.significance import (
    CI,
    Change,
    Configuration,
    Significance,
    Values,
    is_number,
)
from prunelab.core.escape import as_code
from prunelab.core.plurals import counted
from prunelab.core.text import name_list
from prunelab.report.markdown import details_block, table
from prunelab.statistics.intervals import with_interval

ACCURACY = "accuracy"
COSTS = {
    "macs": "MACs",
    "params_nonzero": "parameters ≠ 0",
    "size_compressed_bytes": "bytes, compressed",
}
HEADER = [
    "configuration",
    "accuracy before, %",
    "after, %",
    "change, points",
    "interval",
    *COSTS.values(),
]
METRICS_HEADER = ["configuration", "metric", "before", "after", "change", "interval"]

# What became of an accuracy, in words.
FELL, ROSE = "**fell beyond the interval**", "**rose beyond the interval**"
SAME = "the same"
IN_WORDS = {
    Significance.within: "changed within the interval",
    Significance.unknown: "changed, the interval not known",
    Significance.exact: "changed, the interval not known",  # 0 or 1, written as an integer
    Significance.nonsense: "**not a number**",
    Significance.added: "new",
    Significance.removed: "gone",
}
# The order in which they are listed.
OUTCOMES = (FELL, ROSE, *dict.fromkeys(IN_WORDS.values()), SAME)
# Configurations of these outcomes are counted, not named.
UNREMARKABLE = (IN_WORDS[Significance.within], SAME)

SMALLEST_SHOWN = 0.00005  # smaller numbers would be 0.0000 at four decimals


def summary_lines(configurations: Sequence[Configuration]) -> list[str]:
    """A line on accuracy and a line on cost."""
    return [_accuracy_line(configurations), _cost_line(configurations)]


def _accuracy_line(configurations: Sequence[Configuration]) -> str:
    names_by_outcome: dict[str, list[str]] = {outcome: [] for outcome in OUTCOMES}
    count = 0
    for configuration in configurations:
        if _has_accuracy(configuration):
            outcome = _outcome(configuration.change(ACCURACY))
            names_by_outcome[outcome].append(as_code(configuration.name))
            count += 1

    outcomes = []
    for outcome, names in names_by_outcome.items():
        if not names:
            continue
        line = f"{len(names)} {outcome}"
        if outcome not in UNREMARKABLE:
            line += f" ({name_list(names)})"
        outcomes.append(line)

    return f"- Accuracy of {count} configurations: {', '.join(outcomes) or 'none measured'}."


def _cost_line(configurations: Sequence[Configuration]) -> str:
    changed = []
    for key, cost in COSTS.items():
        names = []
        for configuration in configurations:
            on_both_sides = configuration.old and configuration.new
            if on_both_sides and configuration.change(key).difference:
                names.append(as_code(configuration.name))
        if names:
            changed.append(f"{cost} of {name_list(names)}")

    if not changed:
        return "- Cost: no count changed."
    return f"- Cost: {'; '.join(changed)} changed."


def _has_accuracy(configuration: Configuration) -> bool:
    return ACCURACY in configuration.old or ACCURACY in configuration.new


def _outcome(change: Change) -> str:
    if change.significance is Significance.beyond:
        if change.new < change.old:
            return FELL
        return ROSE
    if change.difference == 0:
        return SAME
    return IN_WORDS[change.significance]


def headline(configurations: Sequence[Configuration]) -> list[str]:
    """A table with a row for each configuration that came, went, or changed in accuracy or cost."""
    rows = []
    for configuration in configurations:
        if _has_accuracy(configuration) and _is_headline(configuration):
            rows.append(_headline_row(configuration))

    if not rows:
        return []
    return [table(HEADER, rows)]


def _is_headline(configuration: Configuration) -> bool:
    if not (configuration.old and configuration.new):
        return True
    return any(change.key in (ACCURACY, *COSTS) for change in configuration.changes())


def _headline_row(configuration: Configuration) -> list[str]:
    change = configuration.change(ACCURACY)
    points = ""
    if change.difference is not None:
        points = f"{100 * change.difference:+z.2f}"

    costs = [_cost(configuration.change(key)) for key in COSTS]
    return [
        as_code(configuration.name),
        _percent(configuration.old),
        _percent(configuration.new),
        points,
        interval(change, factor=100),
        *costs,
    ]


def _percent(values: Values) -> str:
    accuracy: Any = values.get(ACCURACY)
    half: Any = values.get(ACCURACY + CI)
    if accuracy is None:
        return ""
    if not is_number(accuracy):
        return "not a number"
    if is_number(half):
        return with_interval(accuracy, half)
    return f"{100 * accuracy:.2f}"


def _cost(change: Change) -> str:
    if change.difference is None:
        if change.old is None:
            return shown(change.new)
        return shown(change.old)
    if not change.difference:
        return shown(change.new)

    text = f"{shown(change.old)} → {shown(change.new)}"
    if change.old:
        text += f" ({100 * change.difference / change.old:+.1f} %)"
    return text


def interval(change: Change, factor: int = 1) -> str:
    """What the change means, with half of its interval where it has one.

    `factor` scales the half width: 100 shows a share in points, with two decimals.
    """
    if change.difference == 0:
        return SAME
    has_interval = change.significance in (Significance.within, Significance.beyond)
    if not has_interval or change.half is None:
        return str(change.significance)

    half = shown(change.half)
    if factor > 1:
        half = f"{factor * change.half:.2f}"

    text = f"{change.significance} ±{half}"
    if change.significance is Significance.beyond:
        return f"**{text}**"
    return text


def every_metric(configurations: Sequence[Configuration]) -> list[str]:
    """All metrics that changed, folded, a table for each group of configurations."""
    rows_by_group: dict[str, list[list[str]]] = {}
    for configuration in configurations:
        rows = rows_by_group.setdefault(configuration.group, [])
        for change in configuration.changes():
            rows.append([as_code(configuration.name), *_metric_cells(change)])

    parts = []
    for group, rows in rows_by_group.items():
        if not rows:
            continue
        files = len({row[0] for row in rows})
        summary = f"Metrics, {group}: {len(rows):,} changed in {counted(files, 'file')}"
        parts.append(details_block(summary, table(METRICS_HEADER, rows)))
    return parts


def _metric_cells(change: Change) -> list[str]:
    before = _with_half_width(change.old, change.old_half)
    after = _with_half_width(change.new, change.new_half)
    return [as_code(change.key), before, after, signed(change.difference), interval(change)]


def _with_half_width(value: Any, half: float | None) -> str:
    if half is None or not is_number(value):
        return shown(value)
    return f"{shown(value)} ± {shown(half)}"


def shown(value: Any) -> str:
    """A value as a cell: counts with thousands, numbers to four decimals, text as code.

    None becomes an empty cell.
    """
    if value is None:
        return ""
    if not is_number(value):
        if isinstance(value, float):
            return "not a number"
        return as_code(value)
    if isinstance(value, int):
        return f"{value:,}"
    if abs(value) >= SMALLEST_SHOWN or value == 0:
        return f"{value:z,.4f}"
    return f"{value:.1e}"


def signed(difference: float | None) -> str:
    """A difference with its sign; empty where there is none."""
    if difference is None:
        return ""
    if difference < 0:
        return shown(difference)
    return f"+{shown(difference)}"
