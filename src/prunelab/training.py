"""The one training loop, for base training and fine-tuning alike. It knows no paths and no pruning."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunelab.data.batches import Augmentation, Batches
from prunelab.data.splits import Split
from prunelab.errors import Refused
from prunelab.models.frozen import train_mode
from prunelab.optimisers import optimiser, rate_factor
from prunelab.params import Normalise, Recipe
from prunelab.progress import Progress, Tally
from prunelab.runtime import Execution, seed_for

State = dict[str, Any]


class Store(Protocol):
    """Keeps the state of an unfinished run between processes."""

    def load(self) -> State | None: ...

    def save(self, state: State) -> None: ...


class NoStore:
    """For runs that need no resuming."""

    def load(self) -> State | None:
        return None

    def save(self, state: State) -> None:
        pass


@dataclass(frozen=True)
class Task:
    """What a network is trained on and judged by; shared by all seeds of a stage."""

    train: Batches
    validation: Batches
    augmentation: Augmentation
    execution: Execution

    @classmethod
    def of(
        cls,
        train: Split,
        validation: Split,
        *,
        normalise: Normalise,
        augmentation: Augmentation,
        execution: Execution,
    ) -> "Task":
        return cls(
            Batches(train, normalise, execution), Batches(validation, normalise, execution), augmentation, execution
        )


@dataclass
class Fitted:
    """One row per finished epoch, copies of the weights after the epochs asked for, and images seen."""

    history: list[dict[str, float]] = field(default_factory=list)
    kept: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    images_seen: int = 0

    def describe(self) -> str:
        """One line for the log: the last epoch, which is the one that counts, and the best by validation."""
        if not self.history:
            return "no training"
        last, best = self.history[-1], max(self.history, key=lambda row: row["validation_accuracy"])
        return (
            f"validation accuracy {last['validation_accuracy']:.4f} after epoch {last['epoch']} "
            f"(best {best['validation_accuracy']:.4f} after epoch {best['epoch']})"
        )


def fit(
    model: nn.Module,
    task: Task,
    recipe: Recipe,
    *,
    seed: int,
    after_step: Callable[[], None] | None = None,
    keep_epochs: Collection[int] = (),
    store: Store | None = None,
    label: str = "",
) -> Fitted:
    """Train `model` in place for the recipe's epochs, and say how it went.

    `after_step` runs after every optimiser step (to hold masks, say). Copies of the weights after `keep_epochs` are
    returned (0: before training). With a store, finished epochs are never done twice: a run that was killed and
    started again ends with the same bits as one that was not.

    Raises:
        Refused: if a loss is no longer a finite number.
    """
    task.execution.place(model)
    optimizer = optimiser(model, recipe)
    store = store or NoStore()
    fitted = _resumed(store.load(), model, optimizer)
    if not fitted.history and 0 in keep_epochs:
        fitted.kept[0] = _copy(model)
    steps_per_epoch = task.train.count(recipe.batch_size)
    done = len(fitted.history)
    if done:
        print(f"{label}: going on after epoch {done}")
    with Progress(label, recipe.epochs, steps_per_epoch, done) as progress:
        for epoch in range(done, recipe.epochs):
            row = _train_epoch(model, optimizer, task, recipe, seed, epoch, after_step or (lambda: None), progress)
            row |= _validate(model, task, recipe.batch_size)
            _assert_finite(row)
            fitted.history.append({key: round(value, 6) for key, value in row.items()})
            fitted.images_seen += len(task.train)
            if epoch + 1 in keep_epochs:
                fitted.kept[epoch + 1] = _copy(model)
            store.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "fitted": vars(fitted)})
            progress.validated(fitted.history[-1])
    return fitted


def _assert_finite(row: dict[str, float]) -> None:
    for key, value in row.items():
        if not math.isfinite(value):
            raise Refused(
                f"{key} became {value} in epoch {row['epoch']}; try a lower learning_rate or more warmup "
                "(the state after the epoch before is kept)"
            )


def _resumed(state: State | None, model: nn.Module, optimizer: torch.optim.Optimizer) -> Fitted:
    if state is None:
        return Fitted()
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return Fitted(**state["fitted"])


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def _train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    task: Task,
    recipe: Recipe,
    seed: int,
    epoch: int,
    after_step: Callable[[], None],
    progress: Progress,
) -> dict[str, float]:
    # Dropout and the like draw from the global stream: set anew each epoch, it does not depend on what ran before.
    torch.manual_seed(seed_for("epoch", seed, epoch))
    train_mode(model)
    steps = task.train.count(recipe.batch_size)
    tally = Tally(task.execution.device)
    batches = task.train.shuffled(recipe.batch_size, task.augmentation, seed=seed, epoch=epoch)
    for step, (images, labels) in enumerate(batches, start=epoch * steps):
        factor = rate_factor(recipe, step, recipe.epochs * steps)
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * factor
        with task.execution.autocast():
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        after_step()
        tally.add(loss.detach() * len(labels), logits.detach(), labels)
        progress.step(len(labels), tally)
    loss_mean, accuracy = tally.means()
    return {"epoch": epoch + 1, "learning_rate": recipe.learning_rate * factor, "loss": loss_mean, "accuracy": accuracy}


def _validate(model: nn.Module, task: Task, batch_size: int) -> dict[str, float]:
    model.eval()
    tally = Tally(task.execution.device)
    with torch.inference_mode(), task.execution.autocast():
        for images, labels in task.validation.ordered(batch_size):
            logits = model(images).float()
            tally.add(F.cross_entropy(logits, labels, reduction="sum"), logits, labels)
    loss, accuracy = tally.means()
    return {"validation_loss": loss, "validation_accuracy": accuracy}
