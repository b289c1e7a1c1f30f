"""How good a network is: its predictions, and what they say against the labels."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunelab.data.loader import BatchLoader
from prunelab.runtime.device import Execution

TOP = 5
CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Predictions:
    """What a network said of every image, arrays [images]; or several networks of the same images, [seeds, images].

    `classes` predicted (int64), cross-entropy `losses` (float64), `confidences` in the predicted class (float64, above
    0 to 1), and whether the label was among the `TOP` likeliest (bool).
    """

    classes: np.ndarray
    losses: np.ndarray
    confidences: np.ndarray
    among_top: np.ndarray

    @classmethod
    def stacked(cls, several: Sequence["Predictions"]) -> "Predictions":
        return cls(
            *(np.stack([getattr(one, field.name) for one in several]) for field in fields(cls))
        )


def predict(
    model: nn.Module, batches: BatchLoader, batch_size: int, execution: Execution
) -> Predictions:
    """Run a network over a split in order, in float32 whatever it was trained in."""
    execution.place(model).eval()
    with torch.inference_mode():
        parts = [_said(model(inputs), labels) for inputs, labels in batches.ordered(batch_size)]
    return Predictions(*(torch.cat(columns).cpu().numpy() for columns in zip(*parts, strict=True)))


def _said(logits: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    losses = F.cross_entropy(logits, labels, reduction="none").double()
    likeliest = logits.topk(min(TOP, logits.shape[1]), dim=1).indices
    among_top = (likeliest == labels[:, None]).any(dim=1)
    return logits.argmax(1), losses, logits.double().softmax(dim=1).amax(dim=1), among_top


def calibration_error(confidences: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error, 0 (a confidence is how often one is right) to 1: of 15 bins of equal width.

    `confidences` and `right` [images]; Guo et al. 2017, On Calibration of Modern Neural Networks.
    """
    bins = np.minimum(np.ceil(confidences * CALIBRATION_BINS).astype(int) - 1, CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=right - confidences, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(right))
