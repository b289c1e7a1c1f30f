"""One flat dict of metrics for one configuration, out of what its networks said and cost, seed by seed."""

from collections.abc import Mapping, Sequence

import numpy as np

from prunelab.measuring.quality import confusion_matrix, macro_scores
from prunelab.measuring.statistics import half_width


def quality(
    labels: np.ndarray,
    *,
    after: np.ndarray,
    before: np.ndarray,
    dense: np.ndarray,
    losses: np.ndarray,
    classes: int,
    resamples: int,
) -> dict[str, float]:
    """Means over seeds, with 95 % intervals as half widths.

    Predicted classes [seeds, images] `after` fine-tuning, `before` it, and of the `dense` network of the same seed,
    to which drops are paired; `losses` [seeds, images] after fine-tuning. For the dense network all three are its own.
    """
    right, right_before, right_dense = (predicted == labels for predicted in (after, before, dense))
    drop = right_dense.astype(float) - right
    scores = [macro_scores(confusion_matrix(labels, predicted, classes)) for predicted in after]
    return {
        "accuracy": right.mean(),
        "accuracy_ci95": half_width(right.astype(float), resamples=resamples),
        "accuracy_pruned": right_before.mean(),
        "accuracy_pruned_ci95": half_width(right_before.astype(float), resamples=resamples),
        "accuracy_drop": drop.mean(),
        "accuracy_drop_ci95": half_width(drop, resamples=resamples),
        "loss": losses.mean(),
        **mean_over_seeds(scores),
    }


def mean_over_seeds(per_seed: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every key; counts, which are integers in all seeds, stay integers."""
    return {key: _mean([seed[key] for seed in per_seed]) for key in per_seed[0]}


def _mean(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return round(mean) if all(isinstance(value, int) for value in values) else float(mean)
