"""The one training loop: base training, fine-tuning and schedules all call `Trainer.fit`.

It knows no paths and no pruning.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunelab.config.params import Recipe
from prunelab.core.errors import InputError
from prunelab.data.augment import Augmentation
from prunelab.data.loader import BatchLoader, RawBatch
from prunelab.models.frozen import only_head_trained, train_mode
from prunelab.models.randomness import draws_random_numbers
from prunelab.runtime.device import Execution, seed_for
from prunelab.runtime.distributed import SINGLE_PROCESS, Distributed
from prunelab.runtime.streams import (
    one_at_a_time,
    own_stream,
    shares_generators,
    side_by_side,
    stop_if_asked,
)
from prunelab.statistics.scores import confusion_matrix, macro_scores
from prunelab.training.callbacks import Callback
from prunelab.training.cuda_graphs import GraphRecorder, say_why_not
from prunelab.training.distillation import Teacher
from prunelab.training.lr_schedules import lr_factor
from prunelab.training.optimizers import build_optimizer
from prunelab.training.progress import Progress, RunningMetrics
from prunelab.training.steps import StepInput, TrainingStep, ValidationStep

SAMPLE_BATCH_SIZE = 64  # of calibration examples; criteria sum over batches, so it sets memory only

State = dict[str, Any]
Batch = tuple[Tensor, Tensor]  # inputs and labels
Row = dict[str, float]


class CheckpointStore(Protocol):
    """Keeps the state of an unfinished run between processes."""

    def load(self) -> State | None: ...

    def save(self, state: State) -> None: ...


@dataclass
class TrainResult:
    """What a training did.

    `history` has a row per finished epoch, `kept` copies of the weights by the number of finished
    epochs, and `images_seen` counts training examples.
    """

    history: list[Row] = field(default_factory=list)
    kept: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    images_seen: int = 0

    def describe(self) -> str:
        """One line for the log: the last epoch, which counts, and the best one by validation."""
        if not self.history:
            return "no training"

        last = self.history[-1]
        best = max(self.history, key=lambda row: row["validation_accuracy"])
        return (
            f"validation accuracy {last['validation_accuracy']:.4f} after epoch {last['epoch']} "
            f"(best {best['validation_accuracy']:.4f} after epoch {best['epoch']})"
        )


@dataclass(frozen=True)
class Trainer:
    """Trains networks on one data set, with one seed; several networks may use the same trainer.

    `checkpoints` opens the store of a training by its name; None keeps nothing. Of several
    processes only the first one's store counts. `label` names the trainer in logs. `head` is the
    layer that recipes for pretrained networks treat apart.
    """

    train_loader: BatchLoader
    validation_loader: BatchLoader
    augmentation: Augmentation
    execution: Execution
    distributed: Distributed = SINGLE_PROCESS
    teacher: Teacher | None = None
    seed: int = 0
    checkpoints: Callable[[str], CheckpointStore] | None = None
    label: str = ""
    head: str = ""

    def fit(
        self,
        model: nn.Module,
        recipe: Recipe,
        *,
        start_epoch: int = 0,
        callback: Callback | None = None,
        keep_epochs: Collection[int] = (),
        name: str = "",
    ) -> TrainResult:
        """Train `model` in place from `start_epoch` to the last epoch of the recipe.

        The result has copies of the weights after each of `keep_epochs` (0: before training).
        `name` tells apart the trainings of one trainer: it names their checkpoints. A finished
        epoch is never repeated: a run that was killed and started again ends with the same bits
        as an uninterrupted one.

        Raises:
            InputError: if a loss is no longer finite, or if processes have too few examples of a
                batch for batch norm.
        """
        label = f"{self.label}, {name}" if name else self.label
        # A network that draws random numbers has the global generators to itself while it trains.
        others: AbstractContextManager[None] = side_by_side()
        if draws_random_numbers(model):
            others = nullcontext()

        with own_stream(self.execution.device), others:
            run = self._start_run(model, recipe, callback or Callback(), label)
            try:
                return self._run_epochs(run, start_epoch, keep_epochs, name, label)
            finally:
                run.end()

    def _run_epochs(
        self, run: "_Run", start_epoch: int, keep_epochs: Collection[int], name: str, label: str
    ) -> TrainResult:
        model, recipe = run.model, run.recipe

        # A run that was killed goes on after its last finished epoch.
        store = self._open_checkpoint(name)
        result = run.resume(self.distributed.shared(store.load() if store else None))
        first_epoch = start_epoch + len(result.history)
        if result.history and self.distributed.first:
            print(f"{label}: going on after epoch {first_epoch}")
        if not result.history and 0 in keep_epochs:
            result.kept[0] = _copy_weights(model)

        progress = Progress(
            label,
            total_steps=run.total_steps,
            first_step=first_epoch * run.steps_per_epoch,
            shown=self.distributed.first,
        )
        with progress:
            coming: _EpochInputs | None = None
            for epoch in range(first_epoch, recipe.epochs):
                inputs = coming or self._prepare_epoch(run, epoch)
                self._train_epoch(run, inputs, progress)
                predictions = self._validate(run)
                # Until now nothing was read from a GPU, so it computes while the CPU draws.
                if epoch + 1 < recipe.epochs:
                    coming = self._prepare_epoch(run, epoch + 1)

                row = self._training_row(run, inputs) | self._validation_row(run, predictions)
                _check_finite(row, f"after epoch {epoch + 1}")

                result.history.append({key: round(value, 6) for key, value in row.items()})
                result.images_seen += len(self.train_loader)
                if epoch + 1 in keep_epochs:
                    result.kept[epoch + 1] = _copy_weights(model)

                if store:
                    store.save(run.state(result))
                progress.validated(row)

        return result

    def sample_batches(self, examples: int) -> Iterator[Batch]:
        """So many training examples, not augmented, in batches; the same at every call."""
        return self.train_loader.sample(examples, SAMPLE_BATCH_SIZE, seed=self.seed)

    def accuracies(self, model: nn.Module, batch_size: int) -> tuple[float, float]:
        """Accuracy, 0 to 1, on training examples and on the validation split.

        It takes as many training examples as the validation split has.
        """
        self.execution.place(model)
        model.eval()

        examples = len(self.validation_loader)
        train_batches = self.train_loader.sample(examples, batch_size, seed=self.seed)
        validation_batches = self.validation_loader.ordered(batch_size)
        return self._accuracy(model, train_batches), self._accuracy(model, validation_batches)

    def _start_run(
        self, model: nn.Module, recipe: Recipe, callback: Callback, label: str
    ) -> "_Run":
        self._check_batch_norm(model, recipe)

        # Every process starts with the weights of the first.
        self.execution.place(model)
        self.distributed.align(model)

        training_step = TrainingStep(
            model=model,
            loader=self.train_loader,
            augmentation=self.augmentation,
            execution=self.execution,
            optimizer=build_optimizer(model, recipe, self.head),
            callback=callback,
            teacher=self.teacher,
            label_smoothing=recipe.label_smoothing,
            average_gradients=self.distributed.averaging(model.parameters()),
            metrics=RunningMetrics(self.execution.device),
        )
        validation_step = ValidationStep(
            model=model,
            loader=self.validation_loader,
            execution=self.execution,
            metrics=RunningMetrics(self.execution.device),
        )
        return _Run(
            recipe=recipe,
            steps_per_epoch=self.train_loader.batches_per_epoch(recipe.batch_size),
            validation_steps=self.validation_loader.batches_per_epoch(recipe.batch_size),
            training_step=training_step,
            # In its first step it finds out by itself which gradients there are to average.
            head_step=replace(
                training_step, average_gradients=self.distributed.averaging(model.parameters())
            ),
            validation_step=validation_step,
            recorder=self._recorder(label),
        )

    def _recorder(self, label: str) -> GraphRecorder | None:
        """What records steps as CUDA graphs; None if each is run as it is."""
        if not self.execution.cuda_graphs:
            return None

        reason = ""
        if self.distributed.size > 1:
            reason = "several processes train together"
        elif not self.train_loader.fixed_shapes:
            reason = "texts differ in length"
        if reason:
            say_why_not(label, reason)
            return None
        return GraphRecorder(self.execution.device, label)

    def _open_checkpoint(self, name: str) -> CheckpointStore | None:
        if self.checkpoints is None or not self.distributed.first:
            return None
        return self.checkpoints(name)

    def _check_batch_norm(self, model: nn.Module, recipe: Recipe) -> None:
        processes = self.distributed.size
        if not any(isinstance(module, _BatchNorm) for module in model.modules()):
            return
        if recipe.norm == "eval":  # they normalise by the statistics that they have
            return

        # Batches differ in size by one example at most; this is the smallest.
        smallest_batch = len(self.train_loader) // self.train_loader.batches_per_epoch(
            recipe.batch_size
        )
        if processes == 1 or smallest_batch >= 2 * processes:
            return

        most = max(1, smallest_batch // 2)
        raise InputError(
            f"batch_size {recipe.batch_size} is too small for {processes} processes: batch norm "
            "needs at least 2 examples per process. "
            f"Use at most {most} process{'es' * (most > 1)} or a larger batch_size."
        )

    def _prepare_epoch(self, run: "_Run", epoch: int) -> "_EpochInputs":
        """Draw the random numbers of an epoch, and move its numbers to the device."""
        batches = self.train_loader.raw_shuffled(
            run.recipe.batch_size,
            self.augmentation,
            seed=self.seed,
            epoch=epoch,
            part=self.distributed.part,
        )
        progresses, lrs = run.schedule(epoch)
        return _EpochInputs(
            epoch=epoch,
            batches=batches,
            last_lr=lrs[-1],
            progresses=progresses,
            lr_scalars=self._scalars(lrs),
            progress_scalars=self._scalars(progresses),
        )

    def _train_epoch(self, run: "_Run", inputs: "_EpochInputs", progress: Progress) -> None:
        """Take all steps of an epoch. A GPU may still compute when this returns."""
        model, callback, metrics = run.model, run.training_step.callback, run.training_step.metrics
        self._seed_global_generators(inputs.epoch)
        with one_at_a_time():
            callback.before_epoch(inputs.epoch)

        metrics.restart()
        frozen: AbstractContextManager[None] = nullcontext()
        train, train_unrecorded = run.train, run.training_step
        if inputs.epoch < run.recipe.freeze_epochs:
            frozen = only_head_trained(model, self.head)
            train, train_unrecorded = run.train_head, run.head_step

        with frozen:
            train_mode(model, keep_statistics=run.recipe.norm == "eval")
            for step, finished in inputs.steps():
                if callback.before_step(finished):
                    with one_at_a_time():
                        train_unrecorded(step)
                else:
                    train(step)
                images = len(step.labels)
                metrics.count(images)
                stop_if_asked()
                progress.step(images * self.distributed.size, metrics)

        # Each process has batch-norm statistics of its own examples. Those of the first are kept.
        self.distributed.align(model)

    def _training_row(self, run: "_Run", inputs: "_EpochInputs") -> Row:
        """What the history says of an epoch's training; the same in every process."""
        metrics, summed = run.training_step.metrics, self.distributed.summed
        loss, accuracy = metrics.means(summed)
        if not math.isfinite(loss):
            batch_number = metrics.finite_batches(run.steps_per_epoch, summed) + 1
            when = f"in epoch {inputs.epoch + 1}, batch {batch_number} of {run.steps_per_epoch}"
            _check_finite({"loss": loss}, when)

        return {
            "epoch": inputs.epoch + 1,
            "learning_rate": inputs.last_lr,
            "loss": loss,
            "accuracy": accuracy,
        }

    def _seed_global_generators(self, epoch: int) -> None:
        """Make an epoch independent of what ran before: dropout draws from the global stream.

        Each process draws its own numbers; the first draws those of a lone one. Threads side by
        side do not draw.
        """
        if shares_generators():
            return

        process_label = () if self.distributed.first else (self.distributed.rank,)
        torch.manual_seed(seed_for("epoch", self.seed, epoch, *process_label))

    def _scalars(self, numbers: Sequence[float]) -> Sequence[float | Tensor]:
        """The numbers; on a GPU as float32 scalars there, moved all at once."""
        if self.execution.device.type == "cpu":
            return numbers
        return torch.tensor(numbers, dtype=torch.float32, device=self.execution.device).unbind()

    def _validate(self, run: "_Run") -> "_Predictions":
        """Predict the validation split. A GPU may still compute when this returns."""
        metrics = run.validation_step.metrics
        run.model.eval()
        metrics.restart()

        # Within one context weights are converted once. A recorded step must convert its own.
        whole_pass: AbstractContextManager[None] = nullcontext()
        if not self.execution.cuda_graphs:
            whole_pass = self.execution.autocast()

        predicted_batches = []
        with whole_pass, torch.inference_mode():
            for batch in self.validation_loader.raw_ordered(run.recipe.batch_size):
                logits = run.validate(StepInput(*batch))
                predicted_batches.append(logits.argmax(1))
                metrics.count(len(batch.labels))

        return _Predictions(torch.cat(predicted_batches), classes=logits.shape[1])

    def _validation_row(self, run: "_Run", predictions: "_Predictions") -> Row:
        """What the history says of a validation."""
        loss, accuracy = run.validation_step.metrics.means()
        actual = self.validation_loader.labels.cpu().numpy()
        predicted = predictions.labels.cpu().numpy()
        scores = macro_scores(confusion_matrix(actual, predicted, predictions.classes))
        return {
            "validation_loss": loss,
            "validation_accuracy": accuracy,
            "validation_precision_macro": scores["precision_macro"],
            "validation_recall_macro": scores["recall_macro"],
            "validation_f1_macro": scores["f1_macro"],
        }

    def _accuracy(self, model: nn.Module, batches: Iterable[Batch]) -> float:
        correct, total = 0, 0
        with torch.inference_mode(), self.execution.autocast():
            for inputs, labels in batches:
                correct += int((model(inputs).argmax(1) == labels).sum())
                total += len(labels)

        return correct / total


class _Predictions(NamedTuple):
    """Predicted labels of the validation split, int64 [N], and how many classes there are."""

    labels: Tensor
    classes: int


@dataclass(frozen=True)
class _EpochInputs:
    """The inputs of an epoch's steps. The scalars are `progresses` and learning rates for them.

    `last_lr` is the learning rate of the epoch's last step.
    """

    epoch: int
    batches: Iterator[RawBatch]
    last_lr: float
    progresses: Sequence[float]
    lr_scalars: Sequence[float | Tensor]
    progress_scalars: Sequence[float | Tensor]

    def steps(self) -> Iterator[tuple[StepInput, float]]:
        """Every step's input and, as a number, the finished share of the training before it."""
        numbers = zip(self.lr_scalars, self.progress_scalars, self.progresses, strict=True)
        for batch, (lr, progress, finished) in zip(self.batches, numbers, strict=True):
            yield StepInput(*batch, lr, progress), finished


class _Run:
    """What one call of `fit` works with."""

    def __init__(
        self,
        recipe: Recipe,
        training_step: TrainingStep,
        head_step: TrainingStep,
        validation_step: ValidationStep,
        *,
        steps_per_epoch: int,
        validation_steps: int,
        recorder: GraphRecorder | None,
    ) -> None:
        self.recipe = recipe
        self.model = training_step.model
        self.training_step, self.validation_step = training_step, validation_step
        self.head_step = head_step  # of the epochs in which only the head is trained
        self.steps_per_epoch = steps_per_epoch
        self._recorder = recorder

        self.train: Callable[[StepInput], None] = training_step
        self.train_head: Callable[[StepInput], None] = head_step
        self.validate: Callable[[StepInput], Tensor] = validation_step
        if recorder:
            # A step that trains fewer layers is another graph.
            head_epochs = min(recipe.freeze_epochs, recipe.epochs)
            head_steps = head_epochs * steps_per_epoch
            self.train_head = recorder.replayed(head_step, calls=head_steps)
            self.train = recorder.replayed(training_step, calls=self.total_steps - head_steps)
            calls = recipe.epochs * validation_steps
            self.validate = recorder.replayed(validation_step, calls=calls)

    @property
    def total_steps(self) -> int:
        return self.recipe.epochs * self.steps_per_epoch

    def schedule(self, epoch: int) -> tuple[list[float], list[float]]:
        """The finished share of the training, and the learning rate, at every step of an epoch."""
        first = epoch * self.steps_per_epoch
        progresses, lrs = [], []
        for step in range(first, first + self.steps_per_epoch):
            progresses.append(step / self.total_steps)
            factor = lr_factor(self.recipe, step, self.total_steps)
            lrs.append(self.recipe.learning_rate * factor)
        return progresses, lrs

    def state(self, result: TrainResult) -> State:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.training_step.optimizer.state_dict(),
            "result": vars(result),
        }

    def resume(self, state: State | None) -> TrainResult:
        """Load what `state` returned in an earlier process, and return its result so far."""
        if state is None:
            return TrainResult()

        self.model.load_state_dict(state["model"])
        self.training_step.optimizer.load_state_dict(state["optimizer"])
        return TrainResult(**state["result"])

    def end(self) -> None:
        """Free what only the steps of this run used."""
        if self._recorder:
            self._recorder.close()
            self.training_step.optimizer.zero_grad()  # they lie in the memory of the graphs


def _check_finite(row: Row, when: str) -> None:
    for key, value in row.items():
        if not math.isfinite(value):
            raise InputError(
                f"{key} became {value} {when}. Use a lower learning_rate or more warmup."
            )


def _copy_weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
