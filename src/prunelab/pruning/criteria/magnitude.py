"""Criteria that look at the weights alone, and the control that does not even do that."""

import torch
from torch import Tensor, nn

from prunelab.models.catalogue import prunable_weights
from prunelab.pruning.criteria.calibration import CalibrationData, distribute_evenly
from prunelab.pruning.unstructured.ranking import Saliency


def random(model: nn.Module, evidence: CalibrationData) -> Saliency:
    """Uniform noise: the control every criterion has to beat."""
    weights = prunable_weights(model)
    return {
        name: torch.rand(weight.shape, generator=evidence.generator)
        for name, weight in weights.items()
    }


def l1(model: nn.Module, evidence: CalibrationData) -> Saliency:
    """|w| (Han et al. 2015; summed over a filter, its L1 norm: Li et al. 2017)."""
    return {name: weight.detach().abs().cpu() for name, weight in prunable_weights(model).items()}


def l2(model: nn.Module, evidence: CalibrationData) -> Saliency:
    """w squared: summed over a filter, its squared L2 norm (He et al. 2018)."""
    return {
        name: weight.detach().square().cpu() for name, weight in prunable_weights(model).items()
    }


def lamp(model: nn.Module, evidence: CalibrationData) -> Saliency:
    """w squared over the sum of squares of all weights of the layer that are no smaller (Lee et al. 2021).

    Under a global threshold this sets the layers' own ratios; within a layer the order is that of |w|.
    """
    return {name: _lamp(weight.detach().cpu()) for name, weight in prunable_weights(model).items()}


def _lamp(weight: Tensor) -> Tensor:
    # On the CPU, since a GPU's cumulative sum differs from run to run.
    squares, order = weight.flatten().double().square().sort(stable=True)
    no_smaller = squares.flip(0).cumsum(0).flip(0)
    shares = squares / no_smaller.clamp_min(
        torch.finfo(torch.float64).tiny
    )  # a layer of zeros scores zero
    return torch.empty_like(shares).scatter_(0, order, shares).view(weight.shape)


def fpgm(model: nn.Module, evidence: CalibrationData) -> Saliency:
    """A filter's Euclidean distances to all others of its layer, summed (He et al. 2019).

    What lies nearest to the geometric median of the filters is what the others can best stand in for.
    """
    return {
        name: distribute_evenly(_distances(weight.detach()), weight)
        for name, weight in prunable_weights(model).items()
    }


def _distances(weight: Tensor) -> Tensor:
    filters = weight.flatten(
        1
    ).double()  # in which the fast way, by a matrix product, is accurate enough
    return torch.cdist(filters, filters).sum(1)
