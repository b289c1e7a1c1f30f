"""The rows behind the pictures: plain lists of dicts, which DVC's own plots read too."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prunelab.report.style import colour

Row = dict[str, Any]

MIN_KEPT = 1e-6  # metrics have six decimals, and a log axis has no place for 0


def tradeoff_rows(
    cells: Sequence[tuple[str, float, str]],
    metrics: Sequence[Mapping[str, Any]],
    same: Mapping[str, Sequence[str]],
) -> list[Row]:
    """One row per cell of the grid: method, ratio, colour, and all its metrics.

    Args:
        cells: The method, ratio and key of every cell.
        metrics: The metrics of every cell, in the same order.
        same: By key, the methods that cannot be distinguished from the cell at the same ratio. The
            row has their names as `same_as`, separated by commas.

    A row also has `kept`, the share of the dense network's weights that remains.
    """
    rows = []

    for (method, ratio, key), measured in zip(cells, metrics, strict=True):
        row: Row = {
            "method": method,
            "ratio": ratio,
            "colour": colour(method),
            "same_as": ", ".join(same[key]),
            "kept": max(round(1 - measured["sparsity"], 6), MIN_KEPT),
        }
        rows.append(row | dict(measured))

    return rows


def mean_history(rows: Sequence[Mapping[str, float]]) -> list[Row]:
    """Average rows per seed and epoch over seeds. The result has one row per epoch, in order."""
    by_epoch = defaultdict(list)
    for row in rows:
        by_epoch[row["epoch"]].append(row)

    means = []
    for epoch, seeds in sorted(by_epoch.items()):
        mean: Row = {}
        for key in seeds[0]:
            if key not in ("seed", "epoch"):
                mean[key] = float(np.mean(column(seeds, key)))
        means.append(mean | {"epoch": epoch})

    return means


def column(rows: Sequence[Mapping[str, Any]], key: str) -> list[Any]:
    """The values of one key in all rows."""
    return [row[key] for row in rows]


def matrix_of(rows: Sequence[Mapping[str, int]], classes: int) -> np.ndarray:
    """Rows of actual class, predicted class and count as a matrix, int64 [classes, classes]."""
    matrix = np.zeros((classes, classes), dtype=np.int64)
    for row in rows:
        matrix[row["actual"], row["predicted"]] = row["count"]
    return matrix
