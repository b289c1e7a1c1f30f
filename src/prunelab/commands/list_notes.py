"""What there is to choose from, in half a line each: what it is and when to use it. No torch.

Formulas and sources are in the docstrings, which `prunelab explain` prints.
"""

from collections.abc import Mapping

from prunelab.config.restart import Restart
from prunelab.pruning.methods import Method

SINGLE = "single weights, by masks"
AT_INIT = "single weights, chosen before training"
SINGLE_IN_STEPS = "single weights, in several steps or trained again"
SMALL_GROUPS = "small groups of weights, by masks"
CHANNELS = "channels, removed from the network"
CHANNELS_IN_STEPS = "channels, in several steps or trained again"
ENCODERS = "heads and hidden units of text encoders, removed from the network"

FAMILIES: Mapping[str, str] = {
    SINGLE: "files compress; dense kernels gain no time",
    AT_INIT: "sparse from the start of training",
    SINGLE_IN_STEPS: "for high ratios; costs several trainings",
    SMALL_GROUPS: "for kernels made for such patterns, such as 2:4",
    CHANNELS: "smaller and faster everywhere; start with l1_channel",
    CHANNELS_IN_STEPS: "for high ratios; costs training",
    ENCODERS: "for model: bert",
}

CRITERIA: Mapping[str, str] = {
    "random": "noise; the control that every criterion must beat",
    "l1": "size of the weights; the first to try, needs no data",
    "l2": "squared size; gives a filter's large weights more say",
    "lamp": "size within the layer; finds each layer's own ratio",
    "fpgm": "distance from other filters; finds those that others can replace",
    "bn_scale": "scale of the batch norm behind; for sparse training",
    "wanda": "size times inputs; a cheap look at data",
    "taylor": "change of the loss to first order; for single weights",
    "taylor_filter": "the same for whole filters; where data decide what counts",
    "fisher": "change of the loss to second order; where gradients are near 0",
    "snip": "sensitivity of the loss; before training",
    "grasp": "what keeps gradients flowing; before training",
    "synflow": "flow along paths; before training, needs no data",
}

BUDGETS: Mapping[str, str] = {
    "native": "a ratio of what the method removes; as papers count",
    "params": "a ratio of all parameters; for equal size",
    "macs": "a ratio of the multiply-accumulates; for equal cost, the fairest comparison",
}

GRANULARITIES: Mapping[str, str] = {
    "weight": "single weights are zeroed",
    "vector": "rows of a kernel are zeroed",
    "kernel": "kernels, one input channel of a filter, are zeroed",
    "block": "blocks of output channels by input weights are zeroed (prune.block_rows ...)",
    "filter": "whole filters are zeroed; their channels stay",
    "n_of_m": "the smallest of every M weights in a row are zeroed (prune.group is the M)",
    "pattern": "each kernel keeps one of a few patterns (prune.patterns)",
    "channel": "filters go with all that reads them: the network gets thinner",
    "head": "attention heads are removed",
    "hidden": "hidden units of feed-forward layers are removed",
}

SCOPES: Mapping[str, str] = {
    "global": "weights of all layers compete",
    "layerwise": "weights of a layer compete: each layer loses the same share",
    "rowwise": "weights of one output compete",
    "uniform": "each layer loses the same share of its units",
    "ranked_together": "units of all layers compete by their scores",
    "ranked_relatively": "units of all layers compete by their scores over the layer's mean",
}

SCHEDULES: Mapping[str, str] = {
    "one_shot": "pruned once",
    "repeated": "in 100 steps without training, scored again before each",
    "iterative": "in prune.iterations rounds, trained in between",
    "gradual": "masks grow while the network trains",
    "soft": "the least are zeroed before every epoch, but may come back",
    "sparse (scales)": "trained with a penalty on norms' scales, then pruned once",
    "sparse (group_lasso)": "trained with a penalty on groups of channels, then pruned once",
    "sparse (growing_l2)": "trained with a growing penalty on what will go, then pruned",
}

RESTARTS: Mapping[str, str] = {
    "weights": "training is repeated from the weights of train.rewind_epoch",
    "rate": "the learning rates since train.rewind_epoch are repeated",
    "init": "training starts from the initial weights",
    "scratch": "training starts from fresh weights",
}

# Criteria that need the gradient of the loss.
GRADIENTS = frozenset({"taylor", "taylor_filter", "fisher", "snip", "grasp"})

# What a network must have, by granularity and by criterion.
STRUCTURE: Mapping[str, str] = {
    "channel": "convolutions or linear layers whose width nothing fixes",
    "head": "a text encoder (model: bert)",
    "hidden": "a text encoder (model: bert)",
    "vector": "convolutions",
    "kernel": "convolutions",
    "pattern": "convolutions whose kernels are larger than 1x1",
    "bn_scale": "batch norms behind its layers",
}


def family_of(granularity: str, schedule: str, restart: str) -> str:
    """The family, a key of FAMILIES, of a method by its parts as `prunelab list` prints them."""
    in_steps = schedule not in ("one_shot", "repeated") or bool(restart)

    if granularity in ("head", "hidden"):
        return ENCODERS
    if granularity == "channel":
        return CHANNELS_IN_STEPS if in_steps else CHANNELS
    if granularity != "weight":
        return SMALL_GROUPS
    if restart == Restart.INIT.value:
        return AT_INIT
    return SINGLE_IN_STEPS if in_steps else SINGLE


def needs_of(method: Method) -> list[str]:
    """What a method needs beside the network, a line each."""
    lines = []
    if method.needs_data:
        wanted = "examples"
        if method.criterion in GRADIENTS:
            wanted = "examples with labels, and gradients"
        lines.append(f"data: prune.samples {wanted}")
    else:
        lines.append("data: none")

    structure = []
    for part in (method.granularity, method.criterion):
        if part in STRUCTURE:
            structure.append(STRUCTURE[part])
    lines.append(f"structure: {' and '.join(structure) or 'any prunable layer'}")

    if method.restart is not Restart.NONE:
        lines.append(f"training: {RESTARTS[method.restart.value]}")
    elif method.trains:
        lines.append("training: prune.epochs epochs within the schedule")
    else:
        lines.append("training: none but fine-tuning afterwards")
    return lines
