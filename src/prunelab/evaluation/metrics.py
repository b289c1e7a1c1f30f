"""Flat metrics for one configuration, and their details, out of what its networks said and cost, seed by seed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prunelab.evaluation.predict import Predictions, calibration_error
from prunelab.statistics.intervals import half_width, student_t
from prunelab.statistics.scores import class_scores, confusion_matrix, macro_scores

Row = dict[str, Any]


def quality(
    labels: np.ndarray,
    *,
    after: Predictions,
    before: np.ndarray,
    dense: np.ndarray,
    classes: int,
    resamples: int,
) -> dict[str, float]:
    """Means over seeds, with 95 % intervals as half widths.

    What the networks said `after` fine-tuning, and predicted classes [seeds, images] `before` it and of the `dense`
    network of the same seed, to which drops are paired. For the dense network all three are its own.
    """
    right, right_before, right_dense = (
        (predicted == labels).astype(float) for predicted in (after.classes, before, dense)
    )
    recalls, dense_recalls = (
        _over_seeds(labels, predicted, classes)["recall"] for predicted in (after.classes, dense)
    )
    return {
        **mean_over_seeds(
            by_seed(labels, after=after, before=before, dense=dense, classes=classes)
        ),
        "accuracy_ci95": half_width(right, resamples=resamples),
        "accuracy_pruned_ci95": half_width(right_before, resamples=resamples),
        "accuracy_drop_ci95": half_width(right_dense - right, resamples=resamples),
        "worst_class_drop": (dense_recalls - recalls).max(),
    }


def by_seed(
    labels: np.ndarray, *, after: Predictions, before: np.ndarray, dense: np.ndarray, classes: int
) -> list[Row]:
    """Every measure that is a mean over seeds, for each seed; arguments as `quality` has them."""
    return [
        _of_seed(labels, index, after, before, dense, classes)
        for index in range(len(after.classes))
    ]


def _of_seed(
    labels: np.ndarray,
    index: int,
    after: Predictions,
    before: np.ndarray,
    dense: np.ndarray,
    classes: int,
) -> Row:
    right = after.classes[index] == labels
    return {
        "accuracy": float(right.mean()),
        "accuracy_top5": float(after.among_top[index].mean()),
        "accuracy_pruned": float((before[index] == labels).mean()),
        "accuracy_drop": float((dense[index] == labels).mean() - right.mean()),
        "loss": float(after.losses[index].mean()),
        "calibration_error": calibration_error(after.confidences[index], right),
        **macro_scores(confusion_matrix(labels, after.classes[index], classes)),
    }


def over_seeds(rows: Sequence[Mapping[str, float]]) -> list[Row]:
    """Of every measure of rows by seed: mean, number of seeds and, of several, deviation and 95 % half width.

    The interval is Student's t over seeds alone; those in the metrics cover the finite test set too.
    """
    return [_spread(measure, np.array([row[measure] for row in rows])) for measure in rows[0]]


def _spread(measure: str, values: np.ndarray) -> Row:
    told: Row = {"measure": measure, "n": len(values), "mean": float(values.mean())}
    if len(values) > 1:
        told |= {"sd": float(values.std(ddof=1)), "ci95": student_t(values)}
    return told


def by_class(
    labels: np.ndarray, *, after: np.ndarray, dense: np.ndarray, classes: int
) -> list[Row]:
    """One row per class: how many images it has, its scores as means over seeds, and its recall's drop from dense."""
    scores = _over_seeds(labels, after, classes)
    drops = _over_seeds(labels, dense, classes)["recall"] - scores["recall"]
    support = np.bincount(labels, minlength=classes)
    return [
        {"class": index, "support": int(support[index]), "recall_drop": float(drops[index])}
        | {name: float(values[index]) for name, values in scores.items()}
        for index in range(classes)
    ]


def _over_seeds(labels: np.ndarray, predicted: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """The scores of every class [classes], means over the seeds of `predicted` [seeds, images]."""
    seeds = [class_scores(confusion_matrix(labels, said, classes)) for said in predicted]
    return {name: np.mean([scores[name] for scores in seeds], axis=0) for name in seeds[0]}


def mean_over_seeds(per_seed: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every key; counts, which are integers in all seeds, stay integers."""
    return {key: _mean([seed[key] for seed in per_seed]) for key in per_seed[0]}


def _mean(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return round(mean) if all(isinstance(value, int) for value in values) else float(mean)
