"""The rows behind the pictures: plain lists of dicts, also what DVC's own plots read."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prunelab.report.style import colour

Row = dict[str, Any]


def tradeoff_rows(
    cells: Sequence[tuple[str, float, str]],
    metrics: Sequence[Mapping[str, Any]],
    same: Mapping[str, Sequence[str]],
) -> list[Row]:
    """One row per grid cell: method, ratio, colour, the fraction of weights kept, its metrics, and what it is like.

    `cells` are method, ratio and key; `same` holds, by key, the methods of the same ratio that it cannot be told from.
    """
    return [
        {
            "method": method,
            "ratio": ratio,
            "colour": colour(method),
            "same_as": ", ".join(same[key]),
        }
        | {"kept": _kept(measured["sparsity"]), **measured}
        for (method, ratio, key), measured in zip(cells, metrics, strict=True)
    ]


def _kept(sparsity: float) -> float:
    # Metrics have six decimals, and a log axis has no room for the zero that a larger sparsity is rounded to.
    return max(round(1 - sparsity, 6), 1e-6)


def mean_history(rows: Sequence[Mapping[str, float]]) -> list[Row]:
    """Rows per seed and epoch to rows per epoch, averaged over seeds."""
    epochs = defaultdict(list)
    for row in rows:
        epochs[row["epoch"]].append(row)
    return [
        {
            key: float(np.mean([row[key] for row in same]))
            for key in same[0]
            if key not in ("seed", "epoch")
        }
        | {"epoch": epoch}
        for epoch, same in sorted(epochs.items())
    ]


def matrix_of(rows: Sequence[Mapping[str, int]], classes: int) -> np.ndarray:
    """Rows of actual, predicted and count as a matrix [classes, classes]."""
    matrix = np.zeros((classes, classes), dtype=np.int64)
    for row in rows:
        matrix[row["actual"], row["predicted"]] = row["count"]
    return matrix
