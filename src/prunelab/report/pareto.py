"""Revisions side by side: what changed, what it cost, and which are on the Pareto front.

Rows in, rows out. This module may not import matplotlib: `prunelab compare` mostly prints.
"""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, Protocol

from prunelab.report.labels import COSTS, SHORT_COSTS
from prunelab.report.tables import (
    compressed_size,
    drop,
    fewer_macs,
)
from prunelab.statistics.intervals import no_drop_shown, with_interval

Row = dict[str, Any]

# The metrics without which a revision cannot be a row.
NEEDED = [
    "accuracy",
    "accuracy_ci95",
    "accuracy_drop",
    "accuracy_drop_ci95",
    "sparsity",
    "params",
    "macs_ratio",
    *COSTS,
]
NEEDED_OF_DENSE = ["accuracy", "accuracy_ci95", *COSTS]

# Absent from revisions that are older than it, which were measured on the test split.
SPLIT, TEST = "evaluate.split", "test"

# Parameters that change the data or the dense networks. Revisions that differ in one of them cannot
# be compared. The rewind epoch only says which weights are kept besides.
BASIS = (
    *("dataset", "model", "model_options", "weights", "weights_options.", "seeds"),
    *("data.", "train.", SPLIT),
)
BASIS_BUT = ("data.memory_mb", "data.workers", "train.rewind_epoch")
NO_PART = ("grid.", "search.")

REVISION, CHANGED, METHOD, FRONT = "revision", "changed", "method", "Pareto front"
HEADER = [
    REVISION,
    CHANGED,
    METHOD,
    "ratio",
    "accuracy, %",
    "drop",
    "sparsity",
    "params",
    "fewer MACs",
    "zipped size",
    FRONT,
]
BEST = "best within share of dense {cost}"
FASTER = "faster than dense"

BUDGET_SLACK = 1.01  # a budget of parameters or MACs counts as met within 1 %
LARGEST = 1e300  # JSON can contain integers that are too large for a float
MAX_CHANGES_WIDTH = 48  # letters; the rows have all changes


class Revision(Protocol):
    """A state of the project with its parameters and its metrics."""

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
    """The numbers that a revision must have to be a row and does not have."""
    missing: list[str] = []

    for keys, values in ((NEEDED, revision.metrics), (NEEDED_OF_DENSE, revision.dense)):
        missing += [key for key in keys if not _is_number(values.get(key))]

    if missing:
        return missing

    # A cost of 0 has no place on a log axis, and no share of it can be computed.
    for key in COSTS:
        for values in (revision.metrics, revision.dense):
            if not values[key] > 0:
                missing.append(f"a {key} above 0")
    return missing


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) <= LARGEST


def compare(revisions: Sequence[Revision], cost: str) -> list[Row]:
    """One row per revision: its metrics, and its parameters where they differ from the first one's.

    Every row also has:
        split: What it was measured on.
        no_drop: Whether the interval of the drop includes 0.
        cost, share: The cost, and the same as a share of the dense network's.
        front: Whether the row is on the Pareto front: no other row is at least as good in accuracy
            and cost and better in one of them.
        best_at: The budgets, as shares of the dense network's cost, within which no other row is
            more accurate.
        not_comparable: The parameters that changed the data or the dense networks.
        stale: The parameters that changed since the revision was measured.

    A row that is not comparable with the first one, or stale, is never on the front or best.
    """
    rows = [_row(revision, revisions[0], cost) for revision in revisions]
    comparable = [row for row in rows if not row["not_comparable"] and not row["stale"]]

    for row in rows:
        row["front"] = False
        row["best_at"] = []
    for row in comparable:
        row["front"] = not any(_dominates(other, row) for other in comparable)
    for budget, row in best_within(comparable).items():
        row["best_at"].append(str(budget))

    return rows


def _row(revision: Revision, first: Revision, cost: str) -> Row:
    changed = _changed_params(revision.params, first.params)
    not_comparable = [key for key in changed if is_basis(key)]

    metrics, dense = revision.metrics, revision.dense
    shown_metrics = {key: metrics[key] for key in NEEDED}

    return {
        "name": revision.name,
        "changed": changed,
        "method": revision.params.get("method"),
        "ratio": revision.params.get("ratio"),
        "split": revision.params.get(SPLIT, TEST),
        **shown_metrics,
        "no_drop": no_drop_shown(metrics),
        "cost": metrics[cost],
        "share": metrics[cost] / dense[cost],
        "dense_accuracy": dense["accuracy"],
        "dense_accuracy_ci95": dense["accuracy_ci95"],
        "not_comparable": not_comparable,
        "stale": revision.stale,
    }


def _changed_params(params: Mapping[str, Any], first: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that differ from the first revision's.

    The grid and what a search tries are no part of a revision.
    """
    params = {SPLIT: TEST, **params}
    first = {SPLIT: TEST, **first}

    changed = {}
    for key in sorted({*params, *first}):
        if params.get(key) != first.get(key) and not key.startswith(NO_PART):
            changed[key] = params.get(key)
    return changed


def is_basis(key: str) -> bool:
    """Whether a parameter changes the data or the dense networks."""
    return key.startswith(BASIS) and key not in BASIS_BUT


def _dominates(row: Row, other: Row) -> bool:
    """Whether `row` is at least as good as `other` in accuracy and cost, and better in one."""
    no_worse = row["cost"] <= other["cost"] and row["accuracy"] >= other["accuracy"]
    equal = (row["cost"], row["accuracy"]) == (other["cost"], other["accuracy"])
    return no_worse and not equal


def best_within(rows: Sequence[Row]) -> dict[Fraction, Row]:
    """The most accurate row within 1/2, 1/4, 1/8 ... of the dense network's cost.

    Of rows that are equally accurate it is the cheapest. The budgets end where no row is within.
    """
    best = {}
    budget = Fraction(1, 2)

    while within := [row for row in rows if 0 < row["share"] <= BUDGET_SLACK * budget]:
        best[budget] = min(within, key=lambda row: (-row["accuracy"], row["cost"]))
        budget /= 2

    return best


def in_order(rows: Sequence[Row]) -> list[Row]:
    """The first row, which is the reference, then the others from most to least cost.

    Of equal cost the more accurate comes first. Rows that are not compared come last.
    """
    first, *others = rows
    others.sort(
        key=lambda row: (
            bool(row["not_comparable"] or row["stale"]),
            -row["cost"],
            -row["accuracy"],
        )
    )
    return [first, *others]


def comparison_table(rows: Sequence[Row], cost: str) -> tuple[list[str], list[list[str]]]:
    """The header and one line per row. Speed has a column if it was measured for some row."""
    header = [*HEADER, BEST.format(cost=SHORT_COSTS[cost])]
    lines = [_cells(row) for row in rows]
    if not any("told" in row for row in rows):
        return header, lines

    for row, cells in zip(rows, lines, strict=True):
        cells.append(row.get("told", ""))
    return [*header, FASTER], lines


def _cells(row: Row) -> list[str]:
    name = row["name"]
    if row["not_comparable"]:
        name += " †"
    if row["stale"]:
        name += " ‡"

    ratio = str(row["ratio"])
    if _is_number(row["ratio"]):
        ratio = f"{row['ratio']:g}"

    return [
        name,
        _changes(row["changed"]),
        str(row["method"]),
        ratio,
        with_interval(row["accuracy"], row["accuracy_ci95"]),
        drop(row),
        f"{100 * row['sparsity']:.1f} %",
        f"{row['params']:,}",
        fewer_macs(row),
        compressed_size(row),
        "yes" if row["front"] else "",
        ", ".join(row["best_at"]),
    ]


def _changes(changed: Mapping[str, Any]) -> str:
    """As many changes as fit a column, and how many more there are."""
    texts: list[str] = []
    for key, value in changed.items():
        if key not in ("method", "ratio"):  # they have columns of their own
            texts.append(f"{key}={'null' if value is None else value}")

    shown: list[str] = []
    for text in texts:
        if shown and len(", ".join([*shown, text])) > MAX_CHANGES_WIDTH:
            return f"{', '.join(shown)} and {len(texts) - len(shown)} more"
        shown.append(text)
    return ", ".join(shown)


def notes(
    rows: Sequence[Row],
    without: Mapping[str, str],
    cost: str,
    escape: Callable[[str], str] = str,
) -> list[str]:
    """What a reader of the table must know, one sentence or more per entry.

    Args:
        rows: The rows of `compare`.
        without: By name, why a revision is not in the table.
        cost: The cost of the comparison, a key of `COSTS`.
        escape: Makes names that other people chose fit for the format of the notes.
    """
    first = escape(rows[0]["name"])
    lines = [
        f"{first} is the reference; the others follow from most to least {COSTS[cost]}",
        "± is half the 95 % interval; = means that the interval of the drop includes zero",
        "Pareto front: nothing here is as accurate at less cost, or more accurate at no more",
        "best within 1/2: the most accurate of what costs at most half as much as the dense "
        "network; so for 1/4, 1/8 and on",
    ]

    for row in rows:
        if row["not_comparable"]:
            keys = ", ".join(map(escape, row["not_comparable"]))
            lines.append(
                f"† {escape(row['name'])} is not comparable with {first}: {keys} "
                "made other data or another dense network"
            )

    for row in rows:
        if row["stale"]:
            keys = ", ".join(map(escape, row["stale"]))
            lines.append(
                f"‡ {escape(row['name'])} was measured with other values of {keys}; "
                "`dvc repro` measures it again"
            )

    for name, reason in without.items():
        lines.append(f"{escape(name)} is left out: {escape(reason)}")
    return lines
