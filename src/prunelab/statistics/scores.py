"""Classification scores from a confusion matrix: precision, recall, F1 and specificity. NumPy only."""

import numpy as np


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """How often each class (row) was taken for each (column), int64 [classes, classes]."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def class_scores(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall, F1 and specificity of every class, float64 [classes]; a share of nothing counts as 0."""
    hits = np.diag(confusion)
    actual, predicted, total = confusion.sum(axis=1), confusion.sum(axis=0), confusion.sum()
    others_kept_out = total - actual - predicted + hits
    return {
        "precision": _share(hits, predicted),
        "recall": _share(hits, actual),
        "f1": _share(2 * hits, actual + predicted),
        "specificity": _share(others_kept_out, total - actual),
    }


def macro_scores(confusion: np.ndarray) -> dict[str, float]:
    """The scores of the classes, each averaged over the classes."""
    return {
        f"{name}_macro": float(scores.mean()) for name, scores in class_scores(confusion).items()
    }


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
