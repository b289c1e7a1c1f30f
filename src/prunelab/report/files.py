"""Metrics and rows out of files that may have been damaged by hand: whole and finite, or refused by name."""

from collections.abc import Iterable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from prunelab.artifacts.files import read_json
from prunelab.artifacts.records import restored
from prunelab.errors import Refused
from prunelab.report.costs import COSTS

Row = dict[str, Any]
INTERVALS = [key + end for key in ("accuracy", "accuracy_pruned", "accuracy_drop") for end in ("", "_ci95")]
METRICS = (*INTERVALS, "sparsity", "params", "macs_ratio", *COSTS, "seeds", "imported")
CURVE = ("epoch", "accuracy", "validation_accuracy")
HISTORY = (*CURVE, "loss", "validation_loss")


def read_metrics(path: Path) -> Row:
    """The metrics of one configuration; raises Refused where one that is shown is missing or no finite number."""
    content = read_json(path)
    _assert_numbers(path, content, METRICS)
    return content


def read_rows(path: Path, keys: Iterable[str]) -> list[Row]:
    """Rows that all have finite numbers under these keys; raises Refused for any other content."""
    content = read_json(path)
    if not isinstance(content, list) or not content:
        raise Refused(f"{path} is damaged: it holds no rows; {restored(path)}")
    for row in content:
        _assert_numbers(path, row, keys)
    return content


def read_confusion(path: Path, classes: int) -> list[Row]:
    """Rows of actual, predicted and count; raises Refused for classes that there are not."""
    rows = read_rows(path, ("actual", "predicted", "count"))
    if wrong := [row for row in rows for key in ("actual", "predicted") if row[key] not in range(classes)]:
        raise Refused(f"{path} is damaged: {wrong[0]} is of no class, 0 to {classes - 1}; {restored(path)}")
    return rows


def _assert_numbers(path: Path, content: Any, keys: Iterable[str]) -> None:
    known = content if isinstance(content, Mapping) else {}
    if wrong := [key for key in keys if not _number(known.get(key))]:
        raise Refused(f"{path} is damaged: {', '.join(wrong)} missing or no finite number; {restored(path)}")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 2**63 and isfinite(value)
