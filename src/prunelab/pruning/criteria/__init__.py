"""CRITERIA: how much every weight of a network is worth keeping, by name.

A criterion is a function of (model, calibration data). It returns a saliency: a dictionary from the
names of weight tensors to scores of the same shape, on the CPU. All criteria keep these rules:

- A higher score is more worth keeping.
- A layer that the criterion cannot judge is absent. Pruning then leaves that layer alone.
- The model stays as it was: its tensors, modes, gradients and hooks.
- Only `random` draws random numbers.

How single scores become the score of a unit depends on what is pruned. A unit that masks drop (a
kernel, a block) scores the mean over its weights. A channel that is removed scores the sum over the
weights of its filters. A criterion that judges whole filters therefore distributes a filter's score
evenly over its weights.
"""

from prunelab.core.registry import Table
from prunelab.pruning.criteria.activations import bn_scale, wanda
from prunelab.pruning.criteria.calibration import CalibrationData, Criterion, LossFunction
from prunelab.pruning.criteria.flow import synflow
from prunelab.pruning.criteria.gradients import fisher, grasp, snip, taylor, taylor_filter
from prunelab.pruning.criteria.magnitude import fpgm, l1, l2, lamp, random

_ENTRIES: dict[str, Criterion] = {
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
CRITERIA = Table("criterion", _ENTRIES, called_with=("model", "calibration"))

__all__ = [
    "CRITERIA",
    "CalibrationData",
    "Criterion",
    "LossFunction",
    "bn_scale",
    "fisher",
    "fpgm",
    "grasp",
    "l1",
    "l2",
    "lamp",
    "random",
    "snip",
    "synflow",
    "taylor",
    "taylor_filter",
    "wanda",
]
