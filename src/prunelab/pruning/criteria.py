"""Criteria: how much every weight matters, as (model, generator) -> {tensor name: saliency of the tensor's shape}.

Higher is more worth keeping; only the order counts. Groups of weights (channels, say) are summed up elsewhere.
"""

from collections.abc import Callable

import torch
from torch import nn

from prunelab.models.catalogue import prunable_weights
from prunelab.pruning.masks import Saliency

Criterion = Callable[[nn.Module, torch.Generator], Saliency]


def random(model: nn.Module, generator: torch.Generator) -> Saliency:
    """Uniform noise: the control every criterion has to beat."""
    return {name: torch.rand(weight.shape, generator=generator) for name, weight in prunable_weights(model).items()}


def l1(model: nn.Module, generator: torch.Generator) -> Saliency:
    """|w| (Han et al. 2015; summed over a filter, its L1 norm: Li et al. 2017)."""
    return {name: weight.detach().abs() for name, weight in prunable_weights(model).items()}


def l2(model: nn.Module, generator: torch.Generator) -> Saliency:
    """w squared: summed over a filter, its squared L2 norm (He et al. 2018)."""
    return {name: weight.detach().square() for name, weight in prunable_weights(model).items()}
