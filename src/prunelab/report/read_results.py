"""Read metrics and rows from files that may be damaged: their numbers are checked, or refused."""

from collections.abc import Iterable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from prunelab.artifacts.records import recovery_hint
from prunelab.core.errors import InputError
from prunelab.core.files import read_json
from prunelab.core.metrics_files import DETAILS, HEADLINE, join_metrics
from prunelab.report.labels import COSTS

Row = dict[str, Any]

# The metrics that are shown.
METRICS = [
    "accuracy",
    "accuracy_ci95",
    "accuracy_pruned",
    "accuracy_pruned_ci95",
    "accuracy_drop",
    "accuracy_drop_ci95",
    "accuracy_top5",
    "worst_class_drop",
    "calibration_error",
    "sparsity",
    "params",
    "macs_ratio",
    *COSTS,
    "seeds",
    "imported",
]
# The numbers and texts of a row of the trade-off.
POINT = ["ratio", *METRICS]
POINT_TEXTS = ["method", "same_as"]
# The numbers and texts of an epoch of a training curve.
CURVE = ["epoch", "accuracy", "validation_accuracy"]
CURVE_TEXTS = ["name", "group"]
# The numbers of an epoch in the history of one configuration.
HISTORY = [*CURVE, "loss", "validation_loss"]
# The integers of a cell of a confusion matrix.
CELL = ["actual", "predicted", "count"]

MAX_COUNT = 2**53  # a float holds every integer up to here
MAX_NUMBER = 2**63


def read_metrics(folder: Path, name: str) -> Row:
    """Read the metrics of one configuration from FOLDER/NAME.json and FOLDER/details/NAME.json.

    Raises:
        InputError: if one of `METRICS` is missing or no finite number.
    """
    path = folder / f"{name}.json"
    headline = read_json(path)
    _check_numbers(path, headline, [key for key in METRICS if key in HEADLINE])

    details_path = folder / DETAILS / f"{name}.json"
    metrics = join_metrics(headline, read_json(details_path))
    _check_numbers(details_path, metrics, METRICS)
    return metrics


def read_rows(
    path: Path, keys: Iterable[str], texts: Iterable[str] = (), *, may_be_empty: bool = False
) -> list[Row]:
    """Read rows that must have finite numbers under `keys` and texts under `texts`.

    A training of 0 epochs has no rows, so files of epochs `may_be_empty`.

    Raises:
        InputError: if there is no row and must be one, or if a row lacks one of these values.
    """
    content = read_json(path)
    if not isinstance(content, list) or not (content or may_be_empty):
        raise _damaged(path, "it contains no rows")

    for row in content:
        _check_numbers(path, row, keys)
        missing = [key for key in texts if not isinstance(row.get(key), str)]
        if missing:
            raise _damaged(path, f"no text under {', '.join(missing)}")

    return content


def read_confusion(path: Path, classes: int) -> list[Row]:
    """Read the rows of a confusion matrix: actual class, predicted class and count.

    Raises:
        InputError: if a class does not exist, or a count is no integer from 0 to `MAX_COUNT`.
    """
    rows = read_rows(path, CELL)
    limits = {"actual": classes - 1, "predicted": classes - 1, "count": MAX_COUNT}

    for row in rows:
        for key, limit in limits.items():
            value = row[key]
            if not isinstance(value, int) or not 0 <= value <= limit:
                raise _damaged(path, f"{key} {value} is no integer from 0 to {limit}")

    return rows


def _check_numbers(path: Path, content: object, keys: Iterable[str]) -> None:
    values: Mapping[str, Any] = content if isinstance(content, Mapping) else {}
    missing = [key for key in keys if not _is_finite_number(values.get(key))]
    if missing:
        raise _damaged(path, f"no finite number under {', '.join(missing)}")


def _is_finite_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < MAX_NUMBER and isfinite(value)


def _damaged(path: Path, problem: str) -> InputError:
    return InputError(f"{path} is damaged: {problem}; {recovery_hint(path)}")
