"""The results in a review: a line on what became of accuracy and cost, a row per configuration, every metric folded."""

from collections.abc import Sequence
from typing import Any

from prunelab.commands.review.significance import CI, Change, Configuration, Reading, number
from prunelab.core.escape import as_code
from prunelab.report.labels import abbreviate
from prunelab.report.markdown import details_block, table
from prunelab.report.tables import with_interval

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
FELL, ROSE = "**fell beyond the interval**", "**rose beyond the interval**"
BECAME_BY_READING = {
    Reading.within: "changed within the interval",
    Reading.unknown: "changed, the interval not known",
    Reading.exact: "changed, the interval not known",  # 0 or 1, written as an integer
    Reading.nonsense: "**not a number**",
    Reading.added: "new",
    Reading.removed: "gone",
}
SAME = "the same"
BECAME = (
    FELL,
    ROSE,
    *dict.fromkeys(BECAME_BY_READING.values()),
    SAME,
)  # in the order in which they are told
UNREMARKABLE = (BECAME_BY_READING[Reading.within], SAME)
EVERY = ["configuration", "metric", "before", "after", "change", "interval"]


def verdict(configurations: Sequence[Configuration]) -> list[str]:
    """Accuracy and cost, a line each."""
    became: dict[str, list[str]] = {what: [] for what in BECAME}
    for one in configurations:
        if ACCURACY in {*one.old, *one.new}:
            became[_became(one.change(ACCURACY))].append(as_code(one.name))
    count = sum(map(len, became.values()))
    told = ", ".join(
        f"{len(names)} {what}{_named(what, names)}" for what, names in became.items() if names
    )
    costs = {
        name: [
            as_code(one.name)
            for one in configurations
            if one.old and one.new and one.change(key).difference
        ]
        for key, name in COSTS.items()
    }
    moved = "; ".join(f"{name} of {abbreviate(names)}" for name, names in costs.items() if names)
    return [
        f"- Accuracy of {count} configurations: {told or 'none measured'}.",
        f"- Cost: {moved + ' changed' if moved else 'no count changed'}.",
    ]


def _named(what: str, names: Sequence[str]) -> str:
    """Who it is, where a reader would look."""
    return "" if what in UNREMARKABLE else f" ({abbreviate(names)})"


def _became(change: Change) -> str:
    if change.reading is Reading.beyond:
        return FELL if change.new < change.old else ROSE
    return SAME if change.difference == 0 else BECAME_BY_READING[change.reading]


def headline(configurations: Sequence[Configuration]) -> list[str]:
    """A row for each whose accuracy or cost changed, that came or went."""
    rows = [_row(one) for one in configurations if ACCURACY in {*one.old, *one.new} and _moved(one)]
    return [table(HEADER, rows)] if rows else []


def _moved(one: Configuration) -> bool:
    return not (one.old and one.new) or any(
        change.key in (ACCURACY, *COSTS) for change in one.changes()
    )


def _row(one: Configuration) -> list[str]:
    change = one.change(ACCURACY)
    difference = "" if change.difference is None else f"{100 * change.difference:+z.2f}"
    costs = [_cost(one.change(key)) for key in COSTS]
    return [
        as_code(one.name),
        _share(one.old),
        _share(one.new),
        difference,
        reading(change, 100),
        *costs,
    ]


def _share(side: Any) -> str:
    accuracy, half = side.get(ACCURACY), side.get(ACCURACY + CI)
    if not number(accuracy):
        return "" if accuracy is None else "not a number"
    return with_interval(accuracy, half) if number(half) else f"{100 * accuracy:.2f}"


def _cost(change: Change) -> str:
    if change.difference is None:
        return shown(change.new if change.old is None else change.old)
    if not change.difference:
        return shown(change.new)
    share = f" ({100 * change.difference / change.old:+.1f} %)" if change.old else ""
    return f"{shown(change.old)} → {shown(change.new)}{share}"


def reading(change: Change, factor: int = 1) -> str:
    """What the change means, with half the interval of the change where it has one."""
    if change.difference == 0:
        return SAME
    if change.reading not in (Reading.within, Reading.beyond) or change.half is None:
        return str(change.reading)
    half = f"{factor * change.half:.2f}" if factor > 1 else shown(change.half)
    told = f"{change.reading} ±{half}"
    return f"**{told}**" if change.reading is Reading.beyond else told


def every_metric(configurations: Sequence[Configuration]) -> list[str]:
    """Whatever changed, folded, a table for each group."""
    parts = []
    for group in dict.fromkeys(one.group for one in configurations):
        rows = [
            [as_code(one.name), *_line(change)]
            for one in configurations
            if one.group == group
            for change in one.changes()
        ]
        if rows:
            files = len({row[0] for row in rows})
            summary = f"Metrics, {group}: {len(rows):,} changed in {files} file{'s' * (files > 1)}"
            parts.append(details_block(summary, table(EVERY, rows)))
    return parts


def _line(change: Change) -> list[str]:
    sides = [_side(change.old, change.old_half), _side(change.new, change.new_half)]
    return [as_code(change.key), *sides, signed(change.difference), reading(change)]


def _side(value: Any, half: float | None) -> str:
    return shown(value) if half is None or not number(value) else f"{shown(value)} ± {shown(half)}"


def shown(value: Any) -> str:
    """A count with its thousands, any other number to four decimals, words as code; nothing for nothing."""
    if value is None:
        return ""
    if not number(value):
        return "not a number" if isinstance(value, float) else as_code(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:z,.4f}" if abs(value) >= 0.00005 or value == 0 else f"{value:.1e}"


def signed(difference: float | None) -> str:
    if difference is None:
        return ""
    return shown(difference) if difference < 0 else f"+{shown(difference)}"
