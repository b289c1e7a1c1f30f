"""Classification scores from a confusion matrix: precision, recall, F1 and specificity.

This module may import NumPy only: training uses it as well as evaluation.
"""

import numpy as np


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Count how often each class (row) was predicted as each class (column).

    `labels` and `predicted` are int64 [images]; the result is int64 [classes, classes].
    """
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def class_scores(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall, F1 and specificity of every class, float64 [classes], from 0 to 1.

    A score with nothing to divide by is 0, for example the precision of a class that is never
    predicted.
    """
    total = confusion.sum()
    actual, predicted = confusion.sum(axis=1), confusion.sum(axis=0)

    true_positives = np.diag(confusion)
    true_negatives = total - actual - predicted + true_positives

    return {
        "precision": _divide(true_positives, predicted),
        "recall": _divide(true_positives, actual),
        "f1": _divide(2 * true_positives, actual + predicted),
        "specificity": _divide(true_negatives, total - actual),
    }


def macro_scores(confusion: np.ndarray) -> dict[str, float]:
    """The mean of every score over the classes, each class with the same weight."""
    return {
        f"{name}_macro": float(scores.mean()) for name, scores in class_scores(confusion).items()
    }


def _divide(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    quotients = np.zeros(len(part))
    np.divide(part, whole, out=quotients, where=whole > 0)
    return quotients
