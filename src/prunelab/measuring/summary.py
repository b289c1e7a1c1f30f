"""Flat metrics for one configuration, and their details, out of what its networks said and cost, seed by seed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from prunelab.measuring.quality import (
    Predictions,
    calibration_error,
    class_scores,
    confusion_matrix,
    macro_scores,
)
from prunelab.measuring.statistics import half_width

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
    right, right_before, right_dense = (predicted == labels for predicted in (after.classes, before, dense))
    drop = right_dense.astype(float) - right
    recalls, dense_recalls = (_over_seeds(labels, predicted, classes)["recall"] for predicted in (after.classes, dense))
    return {
        "accuracy": right.mean(),
        "accuracy_ci95": half_width(right.astype(float), resamples=resamples),
        "accuracy_top5": after.among_top.mean(),
        "accuracy_pruned": right_before.mean(),
        "accuracy_pruned_ci95": half_width(right_before.astype(float), resamples=resamples),
        "accuracy_drop": drop.mean(),
        "accuracy_drop_ci95": half_width(drop, resamples=resamples),
        "worst_class_drop": (dense_recalls - recalls).max(),
        "loss": after.losses.mean(),
        "calibration_error": _calibration(after, right),
        **mean_over_seeds([macro_scores(confusion_matrix(labels, said, classes)) for said in after.classes]),
    }


def by_seed(
    labels: np.ndarray, seeds: Sequence[int], *, after: Predictions, before: np.ndarray, dense: np.ndarray
) -> list[Row]:
    """One row per seed: its accuracy, what it was before fine-tuning, its drop from its dense network, its loss."""
    return [
        {
            "seed": seed,
            "accuracy": float((after.classes[index] == labels).mean()),
            "accuracy_pruned": float((before[index] == labels).mean()),
            "accuracy_drop": float((dense[index] == labels).mean() - (after.classes[index] == labels).mean()),
            "loss": float(after.losses[index].mean()),
        }
        for index, seed in enumerate(seeds)
    ]


def by_class(labels: np.ndarray, *, after: np.ndarray, dense: np.ndarray, classes: int) -> list[Row]:
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


def _calibration(said: Predictions, right: np.ndarray) -> float:
    pairs = zip(said.confidences, right, strict=True)
    return float(np.mean([calibration_error(confidences, correct) for confidences, correct in pairs]))


def mean_over_seeds(per_seed: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every key; counts, which are integers in all seeds, stay integers."""
    return {key: _mean([seed[key] for seed in per_seed]) for key in per_seed[0]}


def _mean(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return round(mean) if all(isinstance(value, int) for value in values) else float(mean)
