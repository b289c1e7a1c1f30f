"""The one training loop, for base training, fine-tuning and schedules alike. It knows no paths and no pruning."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunelab.config.params import Normalise, Recipe
from prunelab.core.errors import InputError
from prunelab.data.augment import Augmentation
from prunelab.data.loader import BatchLoader
from prunelab.data.splits import Split
from prunelab.models.frozen import train_mode
from prunelab.runtime.device import Execution, seed_for
from prunelab.runtime.distributed import SINGLE_PROCESS, Distributed
from prunelab.statistics.scores import confusion_matrix, macro_scores
from prunelab.training.optimizers import build_optimizer, lr_factor
from prunelab.training.progress import Progress, RunningMetrics

State = dict[str, Any]


class CheckpointStore(Protocol):
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

    train: BatchLoader
    validation: BatchLoader
    augmentation: Augmentation
    execution: Execution
    ranks: Distributed = SINGLE_PROCESS

    @classmethod
    def of(
        cls,
        train: Split,
        validation: Split,
        *,
        normalise: Normalise | None,
        augmentation: Augmentation,
        execution: Execution,
        workers: int = 0,
        ranks: Distributed = SINGLE_PROCESS,
    ) -> "Task":
        """`workers` processes read splits that stay on disk; `normalise` is None for texts; `ranks` share batches."""
        return cls(
            BatchLoader(train, normalise, execution, workers=workers),
            BatchLoader(validation, normalise, execution, workers=workers),
            augmentation,
            execution,
            ranks,
        )


class Callback:
    """What a method does to a network while it trains; this one does nothing.

    A resumed run begins with `before_epoch`, so a guide must find all it needs in the weights and the epoch.
    """

    def before_epoch(self, epoch: int) -> None:
        """Called ahead of every epoch, 0 for a recipe's first."""

    def penalty(self, progress: float) -> Tensor | None:
        """What to add to the loss of a step; `progress` through the training is 0 to below 1."""
        return None

    def after_step(self, progress: float) -> None:
        """Called after every optimiser step, with the progress made before it."""


class CallAfterStep(Callback):
    """Calls a function after every optimiser step."""

    def __init__(self, function: Callable[[], None]):
        self._function = function

    def after_step(self, progress: float) -> None:
        self._function()


@dataclass(frozen=True)
class Teacher:
    """A network whose softened outputs make up `weight`, 0 to 1, of the loss (Hinton et al. 2015)."""

    model: nn.Module  # in evaluation mode, where the student is
    weight: float
    temperature: float

    def loss(self, logits: Tensor, inputs: Tensor, task: "Task", own: Tensor) -> Tensor:
        """`own`, the loss against the labels, and the divergence from the teacher, weighted.

        The divergence is multiplied by the temperature squared, which keeps its gradients of one size.
        """
        with torch.no_grad(), task.execution.autocast():
            wanted = self.model(inputs).float()
        t = self.temperature
        soft = F.kl_div(
            F.log_softmax(logits / t, 1),
            F.log_softmax(wanted / t, 1),
            log_target=True,
            reduction="batchmean",
        )
        return (1 - self.weight) * own + self.weight * t**2 * soft


@dataclass
class TrainResult:
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
    first_epoch: int = 0,
    guide: Callback | None = None,
    teacher: Teacher | None = None,
    keep_epochs: Collection[int] = (),
    store: CheckpointStore | None = None,
    label: str = "",
) -> TrainResult:
    """Train `model` in place for the recipe's epochs, from `first_epoch` on, and say how it went.

    The `guide` acts before epochs and after steps (to hold masks, say). Copies of the weights after `keep_epochs` are
    returned (0: before training). With a store, finished epochs are never done twice: a run that was killed and
    started again ends with the same bits as one that was not. Of several processes the first one's store counts.

    Raises:
        InputError: if a loss is no longer a finite number, or processes have too few examples of a batch for batch norm.
    """
    ranks = task.ranks
    _assert_enough_for_norms(model, task, recipe)
    ranks.align(task.execution.place(model))
    optimizer = build_optimizer(model, recipe)
    store = store if store and ranks.first else NoStore()
    fitted = _resumed(ranks.shared(store.load()), model, optimizer)
    average = ranks.averaging(model.parameters())
    if not fitted.history and 0 in keep_epochs:
        fitted.kept[0] = _copy(model)
    steps_per_epoch = task.train.count(recipe.batch_size)
    done = first_epoch + len(fitted.history)
    if fitted.history and ranks.first:
        print(f"{label}: going on after epoch {done}")
    with Progress(label, recipe.epochs, steps_per_epoch, done, shown=ranks.first) as progress:
        for epoch in range(done, recipe.epochs):
            row = _train_epoch(
                model,
                optimizer,
                average,
                task,
                recipe,
                seed,
                epoch,
                guide or Callback(),
                teacher,
                progress,
            )
            ranks.align(
                model
            )  # the statistics of batch norm, which every process has of its own examples
            row |= _validate(model, task, recipe.batch_size)
            _assert_finite(row, f"after epoch {epoch + 1}")
            fitted.history.append({key: round(value, 6) for key, value in row.items()})
            fitted.images_seen += len(task.train)
            if epoch + 1 in keep_epochs:
                fitted.kept[epoch + 1] = _copy(model)
            store.save(
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "fitted": vars(fitted),
                }
            )
            progress.validated(fitted.history[-1])
    return fitted


def _assert_enough_for_norms(model: nn.Module, task: Task, recipe: Recipe) -> None:
    processes, least = task.ranks.size, len(task.train) // task.train.count(recipe.batch_size)
    if (
        processes > 1
        and least < 2 * processes
        and any(isinstance(module, _BatchNorm) for module in model.modules())
    ):
        raise InputError(
            f"batch_size: {recipe.batch_size} leaves one of {processes} processes fewer than 2 examples of a batch, "
            f"which batch norm cannot bear; valid here: 1 to {max(1, least // 2)} processes, or larger batches"
        )


def _assert_finite(row: dict[str, float], when: str) -> None:
    for key, value in row.items():
        if not math.isfinite(value):
            raise InputError(
                f"{key} became {value} {when}; try a lower learning_rate or more warmup "
                "(the state after the epoch before is kept)"
            )


def _resumed(
    state: State | None, model: nn.Module, optimizer: torch.optim.Optimizer
) -> TrainResult:
    if state is None:
        return TrainResult()
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return TrainResult(**state["fitted"])


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def _train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Callable[[int], None],
    task: Task,
    recipe: Recipe,
    seed: int,
    epoch: int,
    guide: Callback,
    teacher: Teacher | None,
    progress: Progress,
) -> dict[str, float]:
    # Dropout and the like draw from the global stream: set anew each epoch, it does not depend on what ran before.
    # Every process drops its own, and the first what one alone does.
    ranks = task.ranks
    torch.manual_seed(seed_for("epoch", seed, epoch, *([] if ranks.first else [ranks.rank])))
    guide.before_epoch(epoch)
    train_mode(model)
    steps = task.train.count(recipe.batch_size)
    tally = RunningMetrics(task.execution.device)
    batches = task.train.shuffled(
        recipe.batch_size, task.augmentation, seed=seed, epoch=epoch, part=ranks.part
    )
    for step, (inputs, labels) in enumerate(batches, start=epoch * steps):
        done = step / (recipe.epochs * steps)
        factor = lr_factor(recipe, step, recipe.epochs * steps)
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * factor
        optimizer.zero_grad(set_to_none=True)
        if len(labels):  # of a batch smaller than the number of processes some have none
            with task.execution.autocast():
                logits = model(inputs)
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
            if teacher:
                loss = teacher.loss(logits.float(), inputs, task, loss)
            penalty = guide.penalty(done)
            (loss if penalty is None else loss + penalty).backward()
            tally.add(loss.detach() * len(labels), logits.detach(), labels)
        average(len(labels))
        optimizer.step()
        guide.after_step(done)
        progress.step(len(labels) * ranks.size, tally)
    loss_mean, accuracy = tally.means(ranks.summed)
    if not math.isfinite(loss_mean):  # the same in every process
        batch = tally.sound(steps, ranks.summed) + 1
        _assert_finite({"loss": loss_mean}, f"in epoch {epoch + 1}, batch {batch} of {steps}")
    return {
        "epoch": epoch + 1,
        "learning_rate": recipe.learning_rate * factor,
        "loss": loss_mean,
        "accuracy": accuracy,
    }


def _validate(model: nn.Module, task: Task, batch_size: int) -> dict[str, float]:
    model.eval()
    tally = RunningMetrics(task.execution.device)
    predicted = []
    with torch.inference_mode(), task.execution.autocast():
        for images, labels in task.validation.ordered(batch_size):
            logits = model(images).float()
            tally.add(F.cross_entropy(logits, labels, reduction="sum"), logits, labels)
            predicted.append(logits.argmax(1))
    loss, accuracy = tally.means()
    actual, said = task.validation.labels.cpu().numpy(), torch.cat(predicted).cpu().numpy()
    scores = macro_scores(confusion_matrix(actual, said, logits.shape[1]))
    return {"validation_loss": loss, "validation_accuracy": accuracy} | {
        f"validation_{name}": scores[name]
        for name in ("precision_macro", "recall_macro", "f1_macro")
    }
