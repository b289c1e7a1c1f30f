"""The page's table of results: a line per configuration, in columns that fold and sort."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prunelab.page.findings import drop_shown
from prunelab.report.labels import DENSE
from prunelab.report.rows import column
from prunelab.report.tables import compressed_size, drop, fewer_macs, same_as
from prunelab.statistics.intervals import with_interval

Row = Mapping[str, Any]

MIN_TOP5_CLASSES = 11  # with fewer classes, top-5 accuracy says little

# The groups of columns by name: what a reader can show and hide. Columns without one always show.
GROUPS = {
    "quality": "quality",
    "size": "parameters and MACs",
    "same": "same as",
}


@dataclass(frozen=True)
class Column:
    """A column: its title, the group with which it folds, and whether its cells are words."""

    title: str
    group: str = ""
    words: bool = False


@dataclass(frozen=True)
class Cell:
    """A cell: its text, the value by which it sorts, and whether it is to be read as quiet."""

    text: str
    value: float | str = ""
    quiet: bool = False


@dataclass(frozen=True)
class ResultsTable:
    """All columns, and the cells of every line. The first line is the dense network."""

    columns: Sequence[Column]
    lines: Sequence[Sequence[Cell]]

    @property
    def groups(self) -> dict[str, str]:
        """The groups that have a column, by name, with what they are called."""
        used = {column.group for column in self.columns}
        return {group: title for group, title in GROUPS.items() if group in used}


def results_table(
    dense: Row, points: Sequence[Row], latency: Sequence[Row], classes: int
) -> ResultsTable:
    """The table of the dense network and all cells; `latency` counts for its first backend."""
    rows = [{**dense, "key": DENSE, "same_as": ""}, *points]

    timings: dict[tuple[str, int], Row] = {}
    for row in latency:
        timings.setdefault((row["name"], row["batch_size"]), row)
    sizes = sorted(set(column(latency, "batch_size")))

    columns: dict[Column, list[Cell]] = {
        Column("configuration"): [Cell(row["key"], row["key"]) for row in rows],
        Column("accuracy, %"): [_accuracy(row, "accuracy") for row in rows],
        Column("drop, points"): list(map(_drop, rows)),
        Column("fewer MACs"): [Cell(fewer_macs(row), row["macs_ratio"]) for row in rows],
        Column("compressed"): list(map(_size, rows)),
    }
    for size in sizes:
        columns[Column(f"faster, batch {size}")] = [
            _faster(timings[row["key"], size]) for row in rows
        ]
    columns |= _folded_columns(rows, classes)

    lines = list(zip(*columns.values(), strict=True))
    return ResultsTable(list(columns), lines)


def _folded_columns(rows: Sequence[Row], classes: int) -> dict[Column, list[Cell]]:
    quality: dict[Column, list[Cell]] = {}
    if classes >= MIN_TOP5_CLASSES:
        quality[Column("top-5, %", "quality")] = [_share(row, "accuracy_top5") for row in rows]

    return quality | {
        Column("before fine-tuning, %", "quality"): list(map(_before, rows)),
        Column("worst class, points", "quality"): list(map(_worst_class, rows)),
        Column("calibration error, %", "quality"): [
            _share(row, "calibration_error") for row in rows
        ],
        Column("sparsity, %", "size"): [_share(row, "sparsity") for row in rows],
        Column("parameters ≠ 0", "size"): [_count(row, "params_nonzero") for row in rows],
        Column("MACs", "size"): [_count(row, "macs") for row in rows],
        Column("no difference shown from", "same", words=True): [
            Cell(same_as(row["same_as"]), row["same_as"]) for row in rows
        ],
    }


def _accuracy(row: Row, key: str) -> Cell:
    return Cell(with_interval(row[key], row[f"{key}_ci95"]), row[key])


def _drop(row: Row) -> Cell:
    if row["key"] == DENSE:
        return Cell("")
    return Cell(drop(row), row["accuracy_drop"], quiet=not drop_shown(row))


def _size(row: Row) -> Cell:
    return Cell(compressed_size(row), row["size_compressed_bytes"])


def _faster(timing: Row) -> Cell:
    told = timing.get("told", "")
    return Cell(told, timing.get("faster", 1.0), quiet=told == "no difference")


def _before(row: Row) -> Cell:
    if row["key"] == DENSE:
        return Cell("")
    return _accuracy(row, "accuracy_pruned")


def _worst_class(row: Row) -> Cell:
    if row["key"] == DENSE:
        return Cell("")
    return Cell(f"{100 * row['worst_class_drop']:.1f}", row["worst_class_drop"])


def _share(row: Row, key: str) -> Cell:
    return Cell(f"{100 * row[key]:.1f}", row[key])


def _count(row: Row, key: str) -> Cell:
    return Cell(f"{row[key]:,}", row[key])
