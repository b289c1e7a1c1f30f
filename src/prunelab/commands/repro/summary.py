"""What `prunelab repro` prints at its end: what ran, the best of the grid, and where to look."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from prunelab.core.errors import InputError
from prunelab.project.paths import PAGE, TABLE, TRADEOFF
from prunelab.project.stage_outputs import writer_of
from prunelab.report.read_results import POINT, POINT_TEXTS, read_rows
from prunelab.report.tables import compressed_size, fewer_macs
from prunelab.report.text_table import aligned_table
from prunelab.statistics.intervals import with_interval

Row = dict[str, Any]

MAX_ROWS = 5
HEADER = ["loses at most", "method", "ratio", "accuracy, %", "fewer MACs", "size, compressed"]
EXPLANATION = "at most: up to the end of the 95 % interval; no other network loses and costs less"


def summary(
    root: Path, *, made: Collection[str], unchanged: Collection[str], seconds: float
) -> str:
    """Return the text, from the names of the stages that ran and of those that did not have to.

    The grid is left out if these stages do not bring it up to date, if its results are not there,
    or if they cannot be read.
    """
    count = len(made) + len(unchanged)
    first = "1 stage is up to date" if count == 1 else f"all {count} stages are up to date"
    if not made:
        return first

    were_made = "1 was made" if len(made) == 1 else f"{len(made)} were made"
    lines = [f"{first}: {were_made} in {seconds:.0f} s"]
    # Older results would be taken for those of this run.
    if not _is_written_by(root, TRADEOFF, {*made, *unchanged}):
        return lines[0]

    best = best_rows(_read_grid(root))
    if best:
        lines += ["", aligned_table(HEADER, [_cells(row) for row in best])]
        lines.append(EXPLANATION)
    if (root / PAGE).exists() and _is_written_by(root, PAGE, {*made, *unchanged}):
        lines += [
            "",
            f"all of them: {TABLE}; with pictures: {PAGE}",
            "to try another setting: dvc exp run -S ratio=0.8, then prunelab compare",
        ]
    return "\n".join(lines)


def best_rows(rows: list[Row]) -> list[Row]:
    """The rows of which none loses less and costs less, the most accurate first.

    What a row loses is the upper end of the 95 % interval of its drop. What it costs are MACs, or
    compressed bytes if no row has fewer MACs than the dense network. There are at most MAX_ROWS.
    """
    cost = "size_compressed_bytes"
    if any(row["macs_ratio"] > 1 for row in rows):
        cost = "macs"

    best: list[Row] = []
    for row in sorted(rows, key=lambda row: (loss(row), row[cost])):
        if not best or row[cost] < best[-1][cost]:
            best.append(row)
    return best[:MAX_ROWS]


def loss(row: Row) -> float:
    """The upper end of the interval of a row's drop, as a share of 1; at least 0."""
    return max(0.0, float(row["accuracy_drop"] + row["accuracy_drop_ci95"]))


def _is_written_by(root: Path, path: Path, stages: Collection[str]) -> bool:
    """Whether one of these stages writes a file."""
    writer = writer_of(path, root)
    return writer is not None and writer[0] in stages


def _read_grid(root: Path) -> list[Row]:
    try:
        return read_rows(root / TRADEOFF, POINT, POINT_TEXTS)
    except (InputError, OSError):
        return []


def _cells(row: Row) -> list[str]:
    return [
        f"{100 * loss(row):.2f} points",
        row["method"],
        f"{row['ratio']:g}",
        with_interval(row["accuracy"], row["accuracy_ci95"]),
        fewer_macs(row),
        compressed_size(row),
    ]
