"""METRICS: measures of quality that a study may ask for by name, beside those it always has.

A metric takes the true classes, int64 [N], and the predictions of one network, arrays [N]. It
returns one number, and a higher one should be better.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from prunelab.core.registry import Table, pick
from prunelab.core.text import abbreviate
from prunelab.statistics.intervals import student_t
from prunelab.statistics.scores import confusion_matrix

if TYPE_CHECKING:
    from prunelab.evaluation.predict import Predictions

Metric = Callable[[np.ndarray, "Predictions"], float]


def cohen_kappa(labels: np.ndarray, predictions: "Predictions") -> float:
    """Agreement with the labels beyond chance (Cohen 1960): 1 is perfect, 0 is chance."""
    confusion = _confusion(labels, predictions)
    total = confusion.sum()
    observed = np.trace(confusion) / total
    by_chance = (confusion.sum(0) @ confusion.sum(1)) / total**2
    if by_chance == 1:
        return 1.0
    return float((observed - by_chance) / (1 - by_chance))


def matthews(labels: np.ndarray, predictions: "Predictions") -> float:
    """The correlation of predicted and true classes (Gorodkin 2004), -1 to 1; 0 is chance."""
    confusion = _confusion(labels, predictions)
    total, right = confusion.sum(), np.trace(confusion)
    true, predicted = confusion.sum(1), confusion.sum(0)
    spread = (total**2 - predicted @ predicted) * (total**2 - true @ true)
    if spread <= 0:
        return 0.0
    return float((right * total - true @ predicted) / np.sqrt(spread))


def _confusion(labels: np.ndarray, predictions: "Predictions") -> np.ndarray:
    classes = 1 + int(max(labels.max(), predictions.classes.max()))
    matrix: np.ndarray = confusion_matrix(labels, predictions.classes, classes).astype(float)
    return matrix


_ENTRIES: dict[str, Metric] = {"cohen_kappa": cohen_kappa, "matthews": matthews}
METRICS = Table("metric", _ENTRIES, called_with=("labels", "predictions"))


def measure(
    names: Sequence[str], labels: np.ndarray, predictions: "Predictions"
) -> Mapping[str, float]:
    """The means of metrics over seeds, and half the widths of Student's 95 % intervals.

    `predictions` are arrays [seeds, N]. A single seed has no interval here.

    Raises:
        InputError: if there is no such metric, or if it returns no finite number.
    """
    measured: dict[str, float] = {}
    for name in names:
        metric = pick(METRICS, name, "metric")
        values = [metric(labels, each) for each in predictions.by_seed()]
        for value in values:
            _require_number(name, value)

        measured[name] = float(np.mean(values))
        if len(values) > 1:
            measured[f"{name}_ci95"] = student_t(np.array(values))

    return measured


def _require_number(name: str, value: object) -> None:
    if not isinstance(value, int | float | np.number) or not math.isfinite(value):
        METRICS.refuse(name, f"returns {abbreviate(value)}; return one finite number")
