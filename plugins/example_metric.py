"""A metric of this project's own. Nothing of it runs unless `evaluate.metrics` names it."""

import numpy as np

from prunelab.evaluation.metric_table import METRICS
from prunelab.evaluation.predict import Predictions


@METRICS.register("worst_recall")
def worst_recall(labels: np.ndarray, predictions: Predictions) -> float:
    """The share of its examples that is right in the class that the network knows worst."""
    right = predictions.classes == labels
    recalls = [right[labels == label].mean() for label in np.unique(labels)]
    return float(min(recalls))
