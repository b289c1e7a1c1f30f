"""What all criteria share: the data they may look at, and helpers that leave a model unchanged."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunelab.pruning.unstructured.ranking import Saliency

# From outputs [B, ...] and labels [B, ...] to the mean loss of a batch, a scalar.
LossFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class CalibrationData:
    """What a criterion may look at besides the weights.

    `generator` is the source of random numbers; only `random` draws from it.

    `batches()` yields normalised training batches on the model's device: inputs [B, ...] and labels
    [B]. Every call yields the same batches. Only criteria that look at data call it.

    `loss` maps outputs and labels of a batch to the mean loss of its examples, a scalar; None
    stands for cross-entropy.
    """

    generator: torch.Generator
    batches: Callable[[], Iterable[tuple[Tensor, Tensor]]]
    loss: LossFunction | None = None

    def example(self) -> Tensor:
        """The first input, as a batch of one: [1, ...]."""
        inputs, _ = next(iter(self.batches()))
        return inputs[:1]

    def mean_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a batch, a scalar."""
        if self.loss is None:
            return F.cross_entropy(outputs, labels)
        return self.loss(outputs, labels)

    def summed_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The sum of the losses of a batch's examples, a scalar."""
        if self.loss is None:
            return F.cross_entropy(outputs, labels, reduction="sum")
        return len(labels) * self.loss(outputs, labels)


Criterion = Callable[[nn.Module, CalibrationData], Saliency]


@contextmanager
def evaluating(model: nn.Module, *, batch_statistics: bool = False) -> Iterator[None]:
    """Put the model into evaluation mode, and restore every module's mode afterwards.

    With `batch_statistics`, batch norms stay in training mode: they normalise by the statistics of
    the batch instead of their running ones. torch's encoder passes padded texts on as they are: no
    hook could count in the nested tensors that it makes of them. Weights that a hook computes (old
    weight_norm) are put back: with a history they could not be copied.
    """
    computed = [
        (module, key, value)
        for module in model.modules()
        for key, value in vars(module).items()
        if isinstance(value, Tensor)
    ]
    modes = {module: module.training for module in model.modules()}
    encoders = [
        module
        for module in modes
        if isinstance(module, nn.TransformerEncoder) and module.use_nested_tensor
    ]

    try:
        for encoder in encoders:
            encoder.use_nested_tensor = False
        for module in modes:
            module.training = batch_statistics and isinstance(module, _BatchNorm)
        yield
    finally:
        for encoder in encoders:
            encoder.use_nested_tensor = True
        for module, key, value in computed:
            setattr(module, key, value)
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
