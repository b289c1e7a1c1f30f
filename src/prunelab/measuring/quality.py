"""How good a network is: its predictions, and what they say against the labels."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from prunelab.data.batches import Batches
from prunelab.runtime import Execution


@dataclass(frozen=True)
class Predictions:
    """Predicted classes, int64 [N], and the cross-entropy of every image, float64 [N]."""

    classes: np.ndarray
    losses: np.ndarray


def predict(model: nn.Module, batches: Batches, batch_size: int, execution: Execution) -> Predictions:
    """Run a network over a split in order, in float32 whatever it was trained in."""
    execution.place(model).eval()
    classes, losses = [], []
    with torch.inference_mode():
        for images, labels in batches.ordered(batch_size):
            logits = model(images)
            classes.append(logits.argmax(1))
            losses.append(F.cross_entropy(logits, labels, reduction="none"))
    return Predictions(torch.cat(classes).cpu().numpy(), torch.cat(losses).double().cpu().numpy())


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """How often each class (row) was taken for each (column), int64 [classes, classes]."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def macro_scores(confusion: np.ndarray) -> dict[str, float]:
    """Precision, recall, F1 and specificity, averaged over the classes; a share of nothing counts as 0."""
    hits = np.diag(confusion)
    actual, predicted, total = confusion.sum(axis=1), confusion.sum(axis=0), confusion.sum()
    others_kept_out = total - actual - predicted + hits
    return {
        "precision_macro": _share(hits, predicted),
        "recall_macro": _share(hits, actual),
        "f1_macro": _share(2 * hits, actual + predicted),
        "specificity_macro": _share(others_kept_out, total - actual),
    }


def _share(part: np.ndarray, whole: np.ndarray) -> float:
    return float(np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0).mean())
