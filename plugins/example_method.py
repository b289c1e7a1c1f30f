"""A criterion of this project's own, and two methods of it. Nothing of it runs unless named."""

from torch import Tensor, nn

from prunelab.models.networks import prunable_weights
from prunelab.pruning.criteria import CRITERIA, CalibrationData
from prunelab.pruning.methods import METHODS, Method


@CRITERIA.register("centred_l1")
def centred_l1(model: nn.Module, calibration: CalibrationData) -> dict[str, Tensor]:
    """How far a weight lies from the mean of its filter.

    A filter of equal weights passes on a local mean of its inputs, which others do as well.
    """
    saliency = {}
    for name, weight in prunable_weights(model).items():
        filters = weight.detach().cpu().double().flatten(1)
        scores = (filters - filters.mean(1, keepdim=True)).abs()
        saliency[name] = scores.view(weight.shape)
    return saliency


METHODS.register("centred_l1_unstructured", Method("centred_l1", "weight", "global"))
METHODS.register("centred_l1_channel", Method("centred_l1", "channel", "uniform"))
