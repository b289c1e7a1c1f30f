"""What criteria share: the evidence they may look at, and ways of looking that leave the model as it was."""

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

    `batches()` gives normalised training batches (inputs [B, ...], labels [B]), the same at every call, on the model's
    device; only criteria that look at data call it.
    """

    generator: torch.Generator
    batches: Callable[[], Iterable[tuple[Tensor, Tensor]]]

    def example(self) -> Tensor:
        """The first input, as a batch of one."""
        inputs, _ = next(iter(self.batches()))
        return inputs[:1]


Criterion = Callable[[nn.Module, CalibrationData], Saliency]


@contextmanager
def evaluating(model: nn.Module, *, batch_statistics: bool = False) -> Iterator[None]:
    """The model in evaluation mode, but for batch norms if they are to use the statistics of the batch."""
    before = {module: module.training for module in model.modules()}
    try:
        for module in before:
            module.training = batch_statistics and isinstance(module, _BatchNorm)
        yield
    finally:
        for module, training in before.items():
            module.training = training


def distribute_evenly(scores: Tensor, weight: Tensor) -> Tensor:
    """One score for each filter, [out], dealt out evenly over its weights, so that they sum to it."""
    shares = scores.double().cpu() / weight[0].numel()
    return shares.view(-1, *[1] * (weight.dim() - 1)).expand(weight.shape)
