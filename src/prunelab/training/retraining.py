"""With which recipe, and from which epoch, a pruned network is trained on."""

from prunelab.config.params import Finetune, Recipe, Train
from prunelab.config.restart import Restart


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
