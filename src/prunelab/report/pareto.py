"""Revisions side by side: what changed, what it cost, and which are worth their cost. Rows in, rows out."""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, Protocol

from prunelab.report.costs import COSTS
from prunelab.report.tables import drop, none_shown, with_interval

NEEDED = (
    "accuracy", "accuracy_ci95", "accuracy_drop", "accuracy_drop_ci95", "sparsity", "params", "macs_ratio", *COSTS,
)  # fmt: skip
SLACK = 1.01  # a ratio of parameters or MACs is met within 1 %, so one half asked for is one half
# What makes the data or the dense networks others, so that accuracies and drops cannot be set side by side.
BASIS = ("dataset", "model", "weights", "seeds", "data.", "train.")
BASIS_BUT = ("data.memory_mb", "data.workers")
HEADER = [
    "revision", "changed", "method", "ratio", "accuracy, %", "drop", "sparsity", "parameters", "fewer MACs",
    "size, compressed", "worth it",
]  # fmt: skip
FASTER = "faster than dense"
LARGEST = 1e300  # a file can hold integers that no float is
WIDTH = 48  # letters of what changed; json has all of it
Row = dict[str, Any]


class Revision(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def params(self) -> Mapping[str, Any]: ...
    @property
    def metrics(self) -> Mapping[str, float]: ...
    @property
    def dense(self) -> Mapping[str, float]: ...
    @property
    def stale(self) -> list[str]: ...


def lacking(revision: Revision) -> list[str]:
    """The numbers a revision would need to be a row and does not have."""
    wanted = ((NEEDED, revision.metrics), (("accuracy", "accuracy_ci95", *COSTS), revision.dense))
    lacking = [key for keys, found in wanted for key in keys if not _number(found.get(key))]
    # A cost of nothing has no place on a log axis, and nothing is a share of it.
    return lacking or [
        f"a {key} above 0" for key in COSTS for _, found in wanted if not found[key] > 0
    ]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) <= LARGEST


def compare(revisions: Sequence[Revision], cost: str) -> list[Row]:
    """One row per revision: its parameters where they differ from the first one's, its metrics, and what they tell.

    `no_drop`: the interval of the drop includes zero. `share`: of the dense network's cost. `front`: no other row is
    as accurate at less cost, or more accurate at no more. `best_at`: the budgets, as shares of the dense cost, within
    which no other row is more accurate. `not_comparable`: keys that made the data or the dense networks others than
    the first row's, in which case a row has no part in the last two; `stale`: keys changed since it was measured.
    """
    rows = [_row(revision, revisions[0], cost) for revision in revisions]
    like = [row for row in rows if not row["not_comparable"] and not row["stale"]]
    for row in rows:
        row["front"] = any(row is other for other in like) and not any(
            _beats(other, row) for other in like
        )
        row["best_at"] = []
    for budget, row in best_within(like).items():
        row["best_at"].append(str(budget))
    return rows


def _row(revision: Revision, first: Revision, cost: str) -> Row:
    ours, theirs = revision.params, first.params
    keys = [
        key
        for key in sorted({*ours, *theirs})
        if ours.get(key) != theirs.get(key) and not key.startswith("grid.")
    ]
    metrics = revision.metrics
    return {
        "name": revision.name,
        "changed": {key: ours.get(key) for key in keys},
        "method": ours.get("method"),
        "ratio": ours.get("ratio"),
        **{key: metrics[key] for key in NEEDED},
        "no_drop": none_shown(metrics),
        "cost": metrics[cost],
        "share": metrics[cost] / revision.dense[cost],
        "dense_accuracy": revision.dense["accuracy"],
        "dense_accuracy_ci95": revision.dense["accuracy_ci95"],
        "not_comparable": [key for key in keys if key.startswith(BASIS) and key not in BASIS_BUT],
        "stale": revision.stale,
    }


def _beats(one: Row, other: Row) -> bool:
    """Whether a row is as good in both and better in one."""
    no_worse = one["cost"] <= other["cost"] and one["accuracy"] >= other["accuracy"]
    return no_worse and (one["cost"], one["accuracy"]) != (other["cost"], other["accuracy"])


def best_within(rows: Sequence[Row]) -> dict[Fraction, Row]:
    """The most accurate row, the cheapest of equals, within 1/2, 1/4, 1/8 ... of the dense cost, while there is one."""
    best = {}
    budget = Fraction(1, 2)
    while within := [row for row in rows if 0 < row["share"] <= SLACK * budget]:
        best[budget] = min(within, key=lambda row: (-row["accuracy"], row["cost"]))
        budget /= 2
    return best


def comparison_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """The header and a line per row, in words; how much faster each is only where that was measured."""
    if not any("told" in row for row in rows):
        return HEADER, [_line(row) for row in rows]
    return [*HEADER, FASTER], [[*_line(row), row.get("told", "")] for row in rows]


def _line(row: Row) -> list[str]:
    best = [f"best at {', '.join(row['best_at'])}"] if row["best_at"] else []
    return [
        f"{row['name']}{' †' if row['not_comparable'] else ''}{' ‡' if row['stale'] else ''}",
        _changes(
            {key: value for key, value in row["changed"].items() if key not in ("method", "ratio")}
        ),
        str(row["method"]),
        f"{row['ratio']:g}" if _number(row["ratio"]) else str(row["ratio"]),
        with_interval(row["accuracy"], row["accuracy_ci95"]),
        drop(row),
        f"{100 * row['sparsity']:.1f} %",
        f"{row['params']:,}",
        f"{row['macs_ratio']:.2f}x",
        f"{row['size_compressed_bytes'] / 1000:,.0f} kB",
        "; ".join([*(["front"] if row["front"] else []), *best]),
    ]


def _changes(changed: Mapping[str, Any]) -> str:
    """As many as a column bears, and how many more there are."""
    told: list[str] = []
    for key, value in changed.items():
        told.append(f"{key}={'null' if value is None else value}")
        if len(", ".join(told)) > WIDTH and len(told) > 1:
            told.pop()
            return f"{', '.join(told)} and {len(changed) - len(told)} more"
    return ", ".join(told)


def notes(
    rows: Sequence[Row], without: Mapping[str, str], cost: str, word: Callable[[str], str] = str
) -> list[str]:
    """What a reader of the table must know; `word` writes what others named."""
    told = [
        "± is half the 95 % interval; = means that the interval of the drop includes zero. "
        f"front: nothing here is as accurate at less cost, or more accurate at no more, in {COSTS[cost]}; best at: "
        "the most accurate within that share of the dense network's cost."
    ]
    told += [
        f"† {word(row['name'])} is not comparable with {word(rows[0]['name'])}: "
        f"{', '.join(map(word, row['not_comparable']))} "
        "made other data or another dense network"
        for row in rows
        if row["not_comparable"]
    ]
    told += [
        f"‡ {word(row['name'])} was measured with other values of {', '.join(map(word, row['stale']))}; "
        "`dvc repro` measures it anew"
        for row in rows
        if row["stale"]
    ]
    return told + [f"{word(name)} is left out: {word(reason)}" for name, reason in without.items()]
