"""One seed's training within a schedule: its data, recipes and where its unfinished state goes."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunelab.config.params import Recipe, Train
from prunelab.models.frozen import frozen
from prunelab.training.loop import Callback, CheckpointStore, Task, Teacher, TrainResult, fit

SAMPLE_BATCH = 64  # examples a criterion sees at once: gradients are summed over batches, so memory is all it sets


@dataclass(frozen=True)
class SeedTrainer:
    """What schedules train with (see `pruning.schedules.Trainer`)."""

    task: Task
    finetune: Recipe
    train: Train
    teacher: Teacher | None
    seed: int
    store: Callable[[str], CheckpointStore]
    label: str

    def place(self, model: nn.Module) -> None:
        self.task.execution.place(model)

    def batches(self, examples: int) -> Callable[[], Iterable[tuple[Tensor, Tensor]]]:
        return lambda: self.task.train.sample(examples, SAMPLE_BATCH, seed=self.seed)

    def fit(self, model: nn.Module, name: str, guide: Callback, epochs: int) -> TrainResult:
        recipe = self.finetune.model_copy(update={"epochs": epochs})
        return self._fit(model, name, guide, recipe, first_epoch=0, teacher=self.teacher)

    def refit(self, model: nn.Module, name: str, guide: Callback) -> TrainResult:
        first_epoch = min(self.train.rewind_epoch, self.train.epochs)
        with frozen(model, self.train.freeze):
            return self._fit(model, name, guide, self.train, first_epoch=first_epoch, teacher=None)

    def _fit(
        self,
        model: nn.Module,
        name: str,
        guide: Callback,
        recipe: Recipe,
        *,
        first_epoch: int,
        teacher: Teacher | None,
    ) -> TrainResult:
        return fit(
            model,
            self.task,
            recipe,
            seed=self.seed,
            first_epoch=first_epoch,
            guide=guide,
            teacher=teacher,
            store=self.store(name),
            label=f"{self.label}, {name}",
        )

    def accuracies(self, model: nn.Module) -> tuple[float, float]:
        self.place(model)
        model.eval()
        validation = self.task.validation
        return (
            _accuracy(
                model,
                self.task,
                self.task.train.sample(len(validation), self.finetune.batch_size, seed=self.seed),
            ),
            _accuracy(model, self.task, validation.ordered(self.finetune.batch_size)),
        )


def _accuracy(model: nn.Module, task: Task, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    hits, total = 0, 0
    with torch.inference_mode(), task.execution.autocast():
        for inputs, labels in batches:
            hits += int((model(inputs).argmax(1) == labels).sum())
            total += len(labels)
    return hits / total


class Untrained:
    """Stands in for the trainer of methods that neither train nor look at data."""

    def place(self, model: nn.Module) -> None:
        pass

    def batches(self, examples: int) -> type[list]:
        return list  # no batches: a magnitude needs none
