"""Batch norm's statistics, measured anew once a network has changed under them."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def recalibrate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Measure the statistics of all batch norms anew, as plain averages over the given batches."""
    norms = [
        module
        for module in model.modules()
        if isinstance(module, nn.BatchNorm2d) and module.track_running_stats
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for a cumulative average
    with torch.no_grad():
        for module in model.modules():
            module.training = isinstance(module, nn.BatchNorm2d)  # but no dropout
        for inputs, _ in batches:
            model(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
