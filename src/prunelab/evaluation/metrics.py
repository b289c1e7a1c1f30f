"""The flat metrics of one configuration and their details, from the predictions of its networks.

Arrays of predictions are [seeds, images]: one network per seed, all of the same test split.
"""

import math
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
    """The means of all quality measures over seeds, and half the widths of 95 % intervals.

    Args:
        labels: The true classes, int64 [images].
        after: The predictions after fine-tuning.
        before: The predicted classes before fine-tuning, int64 [seeds, images].
        dense: The predicted classes of the dense networks, int64 [seeds, images]. Drops are paired
            with them by seed and image.
        classes: The number of classes.
        resamples: The number of bootstrap resamples, which a single seed needs.

    For the dense networks, all three predictions are their own.
    """
    per_seed = by_seed(labels, after=after, before=before, dense=dense, classes=classes)

    right = (after.classes == labels).astype(float)
    right_before = (before == labels).astype(float)
    right_dense = (dense == labels).astype(float)

    recall = _mean_class_scores(labels, after.classes, classes)["recall"]
    dense_recall = _mean_class_scores(labels, dense, classes)["recall"]

    return {
        **mean_over_seeds(per_seed),
        "accuracy_ci95": half_width(right, resamples=resamples),
        "accuracy_pruned_ci95": half_width(right_before, resamples=resamples),
        "accuracy_drop_ci95": half_width(right_dense - right, resamples=resamples),
        "worst_class_drop": (dense_recall - recall).max(),
    }


def by_seed(
    labels: np.ndarray, *, after: Predictions, before: np.ndarray, dense: np.ndarray, classes: int
) -> list[Row]:
    """One row per seed, with every measure of `quality` that is a mean over seeds.

    The arguments are those of `quality`.
    """
    rows = []
    for seed in range(len(after.classes)):
        right = after.classes[seed] == labels
        right_before = before[seed] == labels
        right_dense = dense[seed] == labels
        confusion = confusion_matrix(labels, after.classes[seed], classes)

        row: Row = {
            "accuracy": float(right.mean()),
            "accuracy_top5": float(after.among_top[seed].mean()),
            "accuracy_pruned": float(right_before.mean()),
            "accuracy_drop": float(right_dense.mean() - right.mean()),
            "loss": float(after.losses[seed].mean()),
            "calibration_error": calibration_error(after.confidences[seed], right),
            **macro_scores(confusion),
        }
        rows.append(row)

    return rows


def over_seeds(rows: Sequence[Mapping[str, float]]) -> list[Row]:
    """One row per measure of the rows of `by_seed`: its mean and the number of seeds, `n`.

    From two seeds on, a row also has the standard deviation `sd` and half the width of a 95 %
    interval, `ci95`. The interval is Student's t over seeds alone; the intervals of `quality` cover
    the finite test set too.
    """
    described = []
    for measure in rows[0]:
        values = np.array([row[measure] for row in rows])

        row: Row = {"measure": measure, "n": len(values), "mean": float(values.mean())}
        if len(values) > 1:
            row |= {"sd": float(values.std(ddof=1)), "ci95": student_t(values)}
        described.append(row)

    return described


def by_class(
    labels: np.ndarray, *, after: np.ndarray, dense: np.ndarray, classes: int
) -> list[Row]:
    """One row per class: its number of images, its mean scores, and the drop of its recall.

    `after` and `dense` are predicted classes [seeds, images]. The drop is from the dense networks.
    """
    scores = _mean_class_scores(labels, after, classes)
    dense_recall = _mean_class_scores(labels, dense, classes)["recall"]

    drops = dense_recall - scores["recall"]
    support = np.bincount(labels, minlength=classes)

    rows = []
    for index in range(classes):
        row: Row = {"class": index, "support": int(support[index])}
        row["recall_drop"] = float(drops[index])
        for name, values in scores.items():
            row[name] = float(values[index])
        rows.append(row)
    return rows


def _mean_class_scores(
    labels: np.ndarray, predicted: np.ndarray, classes: int
) -> dict[str, np.ndarray]:
    """The scores of every class [classes], as means over the seeds of `predicted`."""
    per_seed = []
    for seed_classes in predicted:
        confusion = confusion_matrix(labels, seed_classes, classes)
        per_seed.append(class_scores(confusion))

    means = {}
    for name in per_seed[0]:
        means[name] = np.mean([scores[name] for scores in per_seed], axis=0)
    return means


def mean_over_seeds(per_seed: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every key. Counts, which are integers in all seeds, stay integers."""
    means: dict[str, float] = {}

    for key in per_seed[0]:
        values = [seed[key] for seed in per_seed]
        mean = math.fsum(values) / len(values)  # `sum` rounds otherwise from Python 3.12 on

        if all(isinstance(value, int) for value in values):
            means[key] = round(mean)
        else:
            means[key] = float(mean)

    return means
