"""How a pruned network is trained on: by the fine-tuning recipe, or by the base recipe again."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from prunelab.config.params import Finetune, Recipe, Train
from prunelab.config.restart import Restart
from prunelab.models.frozen import frozen
from prunelab.training.callbacks import Callback
from prunelab.training.trainer import Trainer, TrainResult


def retraining(restart: Restart, train: Train, finetune: Finetune) -> tuple[Recipe, int]:
    """The recipe that trains a pruned network after its last cut, and the epoch to start with.

    Base training from its beginning gets the epochs of base training and fine-tuning together, so
    no method has a larger budget. New random weights have no pretrained layers to spare, and no
    layer may keep them.
    """
    if restart in (Restart.WEIGHTS, Restart.RATE):
        return train, min(train.rewind_epoch, train.epochs)
    if restart in (Restart.INIT, Restart.SCRATCH):
        changes: dict[str, Any] = {"epochs": train.epochs + finetune.epochs}
        if restart is Restart.SCRATCH:
            changes |= {"freeze": [], "freeze_epochs": 0, "backbone_rate": 1.0, "norm": "train"}
        return train.model_copy(update=changes), 0
    return finetune, 0


@dataclass(frozen=True)
class Retrainer:
    """Trains a network between the cuts of a schedule: a trainer and the two recipes it uses.

    `name` tells apart the trainings of one schedule: it names their checkpoints.
    """

    trainer: Trainer
    finetune: Recipe
    base: Train

    @property
    def loss(self) -> None:
        """Cross-entropy, which the trainer uses as well."""

    def place(self, model: nn.Module) -> None:
        """Move a network to where it is trained."""
        self.trainer.execution.place(model)

    def sample_batches(self, examples: int) -> Iterator[tuple[Tensor, Tensor]]:
        """So many training examples, not augmented, in batches; the same at every call."""
        return self.trainer.sample_batches(examples)

    def fine_tune(
        self, model: nn.Module, epochs: int, *, callback: Callback, name: str
    ) -> TrainResult:
        """Train for so many epochs by the fine-tuning recipe, with the trainer's teacher."""
        recipe = self.finetune.model_copy(update={"epochs": epochs})
        return self.trainer.fit(model, recipe, callback=callback, name=name)

    def retrain_from_rewind(
        self, model: nn.Module, *, callback: Callback, name: str
    ) -> TrainResult:
        """Train by the base recipe from the rewind epoch on, without a teacher.

        The layers that base training freezes are frozen here too.
        """
        trainer = replace(self.trainer, teacher=None)
        start_epoch = min(self.base.rewind_epoch, self.base.epochs)
        with frozen(model, self.base.freeze):
            return trainer.fit(
                model, self.base, start_epoch=start_epoch, callback=callback, name=name
            )

    def accuracies(self, model: nn.Module) -> tuple[float, float]:
        """Accuracy, 0 to 1, on training examples and on the validation split."""
        return self.trainer.accuracies(model, self.finetune.batch_size)
