"""CRITERIA: how much every weight matters, by name; higher is more worth keeping.

A criterion maps (model, evidence) to {tensor name: saliency of the tensor's shape}, on the CPU. A layer that it cannot
judge is absent, and whatever follows leaves that layer alone. The saliency of a unit of weights that masks remove is
the mean over its weights; that of a channel is the sum over its filters, wherefore a criterion that scores whole
filters spreads a score evenly over the filter. Every criterion leaves the model as it found it, and only `random`
draws random numbers.
"""

from prunelab.pruning.criteria.activations import bn_scale, wanda
from prunelab.pruning.criteria.calibration import CalibrationData, Criterion
from prunelab.pruning.criteria.flow import synflow
from prunelab.pruning.criteria.gradients import fisher, grasp, snip, taylor, taylor_filter
from prunelab.pruning.criteria.magnitude import fpgm, l1, l2, lamp, random

CRITERIA: dict[str, Criterion] = {
    "random": random,
    "l1": l1,
    "l2": l2,
    "lamp": lamp,
    "fpgm": fpgm,
    "bn_scale": bn_scale,
    "wanda": wanda,
    "taylor": taylor,
    "taylor_filter": taylor_filter,
    "fisher": fisher,
    "snip": snip,
    "grasp": grasp,
    "synflow": synflow,
}

__all__ = ["CRITERIA", "Criterion", "CalibrationData", *CRITERIA]
