"""One step of training and one of validation: what is computed, in which order.

A step may run as it is or be recorded once and replayed as a CUDA graph (`cuda_graphs.py`). So it
consists of tensor operations on the device, the same ones at every call, and changes tensors in
place: weights, optimizer state and running sums keep their addresses.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunelab.data.augment import Augmentation
from prunelab.data.loader import BatchLoader, RawBatch
from prunelab.runtime.device import Execution
from prunelab.training.callbacks import Callback
from prunelab.training.distillation import Teacher
from prunelab.training.optimizers import Optimizer
from prunelab.training.progress import RunningMetrics


class StepInput(NamedTuple):
    """What differs from step to step: a batch, the learning rate and the progress.

    The first six entries are those of `RawBatch`. `progress` is the finished share of the
    training, from 0 to below 1. `lr` and `progress` are numbers, or scalar float32 tensors on a
    GPU, where a graph can read them.
    """

    inputs: Tensor
    labels: Tensor
    shifts: Tensor | None
    flips: Tensor | None
    boxes: Tensor | None
    others: Tensor | None = None
    lr: float | Tensor = 0.0
    progress: float | Tensor = 0.0

    @property
    def batch(self) -> RawBatch:
        return RawBatch(self.inputs, self.labels, self.shifts, self.flips, self.boxes, self.others)


@dataclass(frozen=True)
class TrainingStep:
    """One optimizer step of `model` on this process's part of a batch.

    `average_gradients` takes the means over processes, given this one's number of examples.
    """

    model: nn.Module
    loader: BatchLoader
    augmentation: Augmentation
    execution: Execution
    optimizer: Optimizer
    callback: Callback
    teacher: Teacher | None
    label_smoothing: float
    average_gradients: Callable[[int], None]
    metrics: RunningMetrics

    def __call__(self, step: StepInput) -> None:
        inputs = self.loader.augmented(step.batch, self.augmentation)
        labels = step.labels
        self.optimizer.zero_grad()

        # A batch smaller than the number of processes leaves some without examples.
        if len(labels):
            with self.execution.autocast():
                logits = self.model(inputs)
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)
            if self.teacher:
                loss = self.teacher.loss(logits.float(), inputs, loss, self.execution)

            penalty = self.callback.penalty(step.progress)
            penalised_loss = loss if penalty is None else loss + penalty
            penalised_loss.backward()  # type: ignore[no-untyped-call]
            self.metrics.add(loss.detach() * len(labels), logits.detach(), labels)

        self.average_gradients(len(labels))
        self.optimizer.step(step.lr)
        self.callback.after_step()


@dataclass(frozen=True)
class ValidationStep:
    """Adds a batch to the sums of a validation and returns its logits, float32 [B, classes]."""

    model: nn.Module
    loader: BatchLoader
    execution: Execution
    metrics: RunningMetrics

    def __call__(self, step: StepInput) -> Tensor:
        with torch.inference_mode(), self.execution.autocast():
            logits: Tensor = self.model(self.loader.plain(step.batch)).float()
            self.metrics.add(
                F.cross_entropy(logits, step.labels, reduction="sum"), logits, step.labels
            )
        return logits
