"""The predictions of a network, and how well calibrated they are."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunelab.core.errors import InputError
from prunelab.data.loader import BatchLoader
from prunelab.runtime.device import Execution

TOP = 5
CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Predictions:
    """The predictions of one network, arrays [images], or of several, arrays [seeds, images].

    `classes`: the predicted classes (int64).
    `losses`: the cross-entropy of every image (float64).
    `confidences`: the probability of the predicted class (float64, above 0 to 1).
    `among_top`: whether the label is among the `TOP` most probable classes (bool).
    """

    classes: np.ndarray
    losses: np.ndarray
    confidences: np.ndarray
    among_top: np.ndarray

    @classmethod
    def stacked(cls, predictions: Sequence["Predictions"]) -> "Predictions":
        """The predictions of several networks for the same images as arrays [seeds, images]."""
        arrays = {}
        for field in fields(cls):
            arrays[field.name] = np.stack([getattr(each, field.name) for each in predictions])
        return cls(**arrays)

    def require_numbers(self) -> None:
        """Raise InputError if the network gave NaN or infinity, which name no class."""
        broken = np.count_nonzero(~np.isfinite(self.confidences))
        if broken:
            raise InputError(
                f"the network's outputs for {broken:,} of {self.confidences.size:,} examples are "
                "NaN or infinite. Look at its weights, and at how its inputs are normalised."
            )

    def by_seed(self) -> Iterator["Predictions"]:
        """The predictions of each network, of arrays [seeds, images]."""
        for seed in range(len(self.classes)):
            yield Predictions(*(getattr(self, field.name)[seed] for field in fields(self)))


def predict(
    model: nn.Module, batches: BatchLoader, batch_size: int, execution: Execution
) -> Predictions:
    """Run a network over a split in order, in float32 whatever precision it was trained in."""
    execution.place(model).eval()
    (predictions,) = predict_batches([model], batches.ordered(batch_size))
    return predictions


def predict_batches(
    models: Sequence[nn.Module], batches: Iterable[tuple[Tensor, Tensor]]
) -> list[Predictions]:
    """Run networks, which are in evaluation mode, over the same batches in one pass.

    Batches are inputs [B, ...] and labels, int64 [B], on the device of the networks.
    """
    scores: list[list[tuple[Tensor, ...]]] = [[] for _ in models]
    with torch.inference_mode():
        for inputs, labels in batches:
            for model, rows in zip(models, scores, strict=True):
                rows.append(_scores(model(inputs), labels))

    predictions = []
    for rows in scores:
        arrays = []
        for column in zip(*rows, strict=True):
            arrays.append(torch.cat(column).cpu().numpy())
        predictions.append(Predictions(*arrays))
    return predictions


def _scores(logits: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """The fields of `Predictions` for one batch; `logits` [images, classes], `labels` [images]."""
    losses = F.cross_entropy(logits, labels, reduction="none").double()
    confidences = logits.double().softmax(dim=1).amax(dim=1)

    likeliest = logits.topk(min(TOP, logits.shape[1]), dim=1).indices
    among_top = (likeliest == labels[:, None]).any(dim=1)

    return logits.argmax(1), losses, confidences, among_top


def calibration_error(confidences: np.ndarray, right: np.ndarray) -> float:
    """The expected calibration error over `CALIBRATION_BINS` bins of equal width.

    0 means that predictions made with a confidence of p are right in a share p of all cases; 1 is
    the worst. `confidences` is float [images]; `right` is bool [images] and says whether each
    prediction is right.

    Guo et al. 2017, On Calibration of Modern Neural Networks.
    """
    bins = np.ceil(confidences * CALIBRATION_BINS).astype(int) - 1
    bins = np.minimum(bins, CALIBRATION_BINS - 1)

    gaps = np.bincount(bins, weights=right - confidences, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(right))
