"""Batch norm statistics, measured again after pruning has changed the activations."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def recalibrate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Replace the statistics of all batch norms by plain averages over the batches.

    Args:
        model: any network; it is left in eval mode
        batches: inputs and labels; the labels are not used
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch then computes a cumulative average

    for module in model.modules():
        module.training = isinstance(module, _BatchNorm)  # dropout stays off
    with torch.no_grad():
        for inputs, _ in batches:
            model(inputs)

    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
