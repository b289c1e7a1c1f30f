"""With which weights, and by which recipe, training continues after pruning."""

from enum import StrEnum


class Restart(StrEnum):
    """What follows the last pruning step.

    none: the network's own weights, by the fine-tuning recipe.
    weights: the weights of the rewind epoch, by the base recipe from that epoch on
        (Frankle et al. 2020).
    rate: the network's own weights, by the base recipe from the rewind epoch on
        (Renda et al. 2020).
    init: the initial weights, on which saliency was measured too, by the base recipe.
    scratch: new random weights, by the base recipe (Liu et al. 2019).
    """

    NONE = "none"
    WEIGHTS = "weights"
    RATE = "rate"
    INIT = "init"
    SCRATCH = "scratch"
