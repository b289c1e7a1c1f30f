"""With which weights and by which recipe a pruned network goes on."""

from enum import StrEnum

from prunelab.params import Finetune, Recipe, Train


class Restart(StrEnum):
    """What follows the last cut.

    none: the network's own weights, by the fine-tuning recipe.
    weights: those of the rewind epoch, by the base recipe from there on (Frankle et al. 2020).
    rate: its own weights, by the base recipe from the rewind epoch on (Renda et al. 2020).
    init: the initial weights, on which saliency was measured too, by the base recipe.
    scratch: fresh random weights, by the base recipe (Liu et al. 2019).
    """

    NONE = "none"
    WEIGHTS = "weights"
    RATE = "rate"
    INIT = "init"
    SCRATCH = "scratch"


def retraining(restart: Restart, train: Train, finetune: Finetune) -> tuple[Recipe, int]:
    """The recipe by which a pruned network is trained on, and the epoch to begin with.

    Base training that starts over has as many epochs as the dense network's and fine-tuning have together, so that no
    method has a larger budget.
    """
    if restart in (Restart.WEIGHTS, Restart.RATE):
        return train, min(train.rewind_epoch, train.epochs)
    if restart in (Restart.INIT, Restart.SCRATCH):
        return train.model_copy(update={"epochs": train.epochs + finetune.epochs}), 0
    return finetune, 0
