"""What all criteria share: the data they may look at, and helpers that leave a model unchanged."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunelab.pruning.unstructured.ranking import Saliency


@dataclass(frozen=True)
class CalibrationData:
    """What a criterion may look at besides the weights.

    `generator` is the source of random numbers; only `random` draws from it.

    `batches()` yields normalised training batches on the model's device: inputs [B, ...] and labels
    [B]. Every call yields the same batches. Only criteria that look at data call it.
    """

    generator: torch.Generator
    batches: Callable[[], Iterable[tuple[Tensor, Tensor]]]

    def example(self) -> Tensor:
        """The first input, as a batch of one: [1, ...]."""
        inputs, _ = next(iter(self.batches()))
        return inputs[:1]


Criterion = Callable[[nn.Module, CalibrationData], Saliency]


@contextmanager
def evaluating(model: nn.Module, *, batch_statistics: bool = False) -> Iterator[None]:
    """Put the model into evaluation mode, and restore every module's mode afterwards.

    With `batch_statistics`, batch norms stay in training mode: they normalise by the statistics of
    the batch instead of their running ones.
    """
    modes = {module: module.training for module in model.modules()}

    try:
        for module in modes:
            module.training = batch_statistics and isinstance(module, _BatchNorm)
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def distribute_evenly(scores: Tensor, weight: Tensor) -> Tensor:
    """Divide one score per filter, [out], evenly among the weights of that filter.

    Returns:
        A float64 tensor of the weight's shape, on the CPU. The values of a filter sum to its score.
    """
    weights_per_filter = weight[0].numel()
    shares = scores.double().cpu() / weights_per_filter

    column = shares.view(-1, *[1] * (weight.dim() - 1))
    return column.expand(weight.shape)
