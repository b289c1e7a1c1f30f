"""Metrics and rows out of files that may have been damaged by hand: whole and finite, or refused by name."""

from collections.abc import Iterable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from prunelab.artifacts.records import restored
from prunelab.core.errors import InputError
from prunelab.core.files import read_json
from prunelab.report.costs import COSTS

Row = dict[str, Any]
INTERVALS = [
    key + end for key in ("accuracy", "accuracy_pruned", "accuracy_drop") for end in ("", "_ci95")
]
OF_QUALITY = (*INTERVALS, "accuracy_top5", "worst_class_drop", "calibration_error")
METRICS = (*OF_QUALITY, "sparsity", "params", "macs_ratio", *COSTS, "seeds", "imported")
POINT = ("ratio", *METRICS)  # of the trade-off, which also has these words
POINT_WORDS = ("method", "same_as")
CURVE_WORDS = ("name", "group")
CURVE = ("epoch", "accuracy", "validation_accuracy")
CELL = ("actual", "predicted", "count")
MOST = 2**53  # beyond it a count is no number of anything
HISTORY = (*CURVE, "loss", "validation_loss")


def read_metrics(path: Path) -> Row:
    """The metrics of one configuration; raises InputError where one that is shown is missing or no finite number."""
    content = read_json(path)
    _assert_numbers(path, content, METRICS)
    return content


def read_rows(path: Path, keys: Iterable[str], words: Iterable[str] = ()) -> list[Row]:
    """Rows that all have finite numbers under these keys, and `words`; raises InputError for any other content."""
    content = read_json(path)
    if not isinstance(content, list) or not content:
        raise InputError(f"{path} is damaged: it holds no rows; {restored(path)}")
    for row in content:
        _assert_numbers(path, row, keys)
        if wrong := [key for key in words if not isinstance(row.get(key), str)]:
            raise InputError(
                f"{path} is damaged: {', '.join(wrong)} missing or no text; {restored(path)}"
            )
    return content


def read_confusion(path: Path, classes: int) -> list[Row]:
    """Rows of actual, predicted and count; raises InputError for classes that there are not, and what is no count."""
    rows, most = (
        read_rows(path, CELL),
        {"actual": classes - 1, "predicted": classes - 1, "count": MOST},
    )
    for row in rows:
        if wrong := [
            key for key in CELL if not isinstance(row[key], int) or not 0 <= row[key] <= most[key]
        ]:
            told = f"{wrong[0]} {row[wrong[0]]} is no integer from 0 to {most[wrong[0]]}"
            raise InputError(f"{path} is damaged: {told}; {restored(path)}")
    return rows


def _assert_numbers(path: Path, content: Any, keys: Iterable[str]) -> None:
    known = content if isinstance(content, Mapping) else {}
    if wrong := [key for key in keys if not _number(known.get(key))]:
        raise InputError(
            f"{path} is damaged: {', '.join(wrong)} missing or no finite number; {restored(path)}"
        )


def _number(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) < 2**63
        and isfinite(value)
    )
