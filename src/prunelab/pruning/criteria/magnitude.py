"""Criteria that look at the weights alone, and the random control.

They need no data, and they judge every prunable tensor of every network.
"""

import torch
from torch import Tensor, nn

from prunelab.models.networks import prunable_weights
from prunelab.pruning.criteria.calibration import CalibrationData, distribute_evenly
from prunelab.pruning.unstructured.ranking import Saliency
from prunelab.runtime import exact


def random(model: nn.Module, calibration: CalibrationData) -> Saliency:
    """Score every weight by uniform noise from [0, 1): the control that a criterion has to beat.

    A high score means nothing. The generator's seed alone decides the scores.
    """
    saliency: Saliency = {}
    for name, weight in prunable_weights(model).items():
        saliency[name] = torch.rand(weight.shape, generator=calibration.generator)

    return saliency


def l1(model: nn.Module, calibration: CalibrationData) -> Saliency:
    """Score every weight by its magnitude, |w|.

    A high score means a large weight; 0 means that the weight is zero already. Summed over a filter
    this is the filter's L1 norm.

    Han et al. 2015, Learning both Weights and Connections for Efficient Neural Networks.
    For filters: Li et al. 2017, Pruning Filters for Efficient ConvNets.
    """
    saliency: Saliency = {}
    for name, weight in prunable_weights(model).items():
        saliency[name] = weight.detach().abs().cpu()

    return saliency


def l2(model: nn.Module, calibration: CalibrationData) -> Saliency:
    """Score every weight by its square, w^2.

    Single weights rank as by `l1`. Summed over a filter this is the filter's squared L2 norm, which
    gives its large weights more say than the L1 norm does.

    He et al. 2018, Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks.
    """
    saliency: Saliency = {}
    for name, weight in prunable_weights(model).items():
        saliency[name] = weight.detach().square().cpu()

    return saliency


def lamp(model: nn.Module, calibration: CalibrationData) -> Saliency:
    """Score every weight by its square as a share of the squares that are no smaller (LAMP).

        score(u) = w_u^2 / sum of w_v^2 over all v of the layer with |w_v| >= |w_u|

    Scores lie in [0, 1]. 1 is the score of a layer's largest weight; 0 means that the weight is
    zero. Within a layer the order is that of |w|. Across layers the scores compare, so that a
    global threshold finds a ratio for each layer by itself, and drops the largest weight of a layer
    last.

    Lee et al. 2021, Layer-adaptive Sparsity for the Magnitude-based Pruning.
    """
    saliency: Saliency = {}
    for name, weight in prunable_weights(model).items():
        saliency[name] = _lamp_scores(weight.detach().cpu())

    return saliency


def _lamp_scores(weight: Tensor) -> Tensor:
    """The LAMP scores of one tensor on the CPU: float64, of the tensor's shape.

    On a GPU the cumulative sum would differ from run to run.
    """
    squares, order = weight.flatten().double().square().sort(stable=True)
    no_smaller = squares.flip(0).cumsum(0).flip(0)

    # A layer of zeros scores zero instead of 0 / 0.
    scores = squares / no_smaller.clamp_min(torch.finfo(torch.float64).tiny)

    return torch.empty_like(scores).scatter_(0, order, scores).view(weight.shape)


def fpgm(model: nn.Module, calibration: CalibrationData) -> Saliency:
    """Score every filter by its distance from the other filters of its layer (FPGM).

        score(F_i) = sum over j of ||F_i - F_j||, with the Euclidean norm

    A low score means that the filter lies near the geometric median of its layer, so that the other
    filters can stand in for it; 0 means that all filters are equal. A high score means that the
    filter is unlike the others. The score is distributed evenly over the weights of the filter.

    He et al. 2019, Filter Pruning via Geometric Median for Deep Convolutional Neural Networks
    Acceleration.
    """
    saliency: Saliency = {}
    for name, weight in prunable_weights(model).items():
        distances = _summed_distances(weight.detach())
        saliency[name] = distribute_evenly(distances, weight)

    return saliency


def _summed_distances(weight: Tensor) -> Tensor:
    """Each filter's Euclidean distances to all filters of the tensor, summed: float64 [out]."""
    return exact.distances(weight.flatten(1).double()).sum(1)
