"""SCHEDULES: at which ratios a network is pruned, and how it trains in between.

A schedule is a function of a `PruningRun`. It reads as its paper's algorithm: which weights or
units go is left to the run's criterion and pruner, and how to train is left to its retrainer.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from torch import Tensor, nn

from prunelab.config.params import PruneSpec
from prunelab.config.restart import Restart
from prunelab.core.registry import Table
from prunelab.models.cost import parameters, training_macs
from prunelab.models.networks import prunable_weights
from prunelab.pruning.criteria import CalibrationData, Criterion, LossFunction
from prunelab.pruning.pruner import Pruner, PruneResult
from prunelab.pruning.structured import penalties
from prunelab.pruning.structured.penalties import Penalty, SelectedUnits
from prunelab.pruning.unstructured.ranking import Saliency
from prunelab.runtime.device import generator
from prunelab.training import masking
from prunelab.training.callbacks import CallAfterStep, Callback
from prunelab.training.trainer import TrainResult

GRADUAL_UPDATES = 10  # mask updates per epoch of the gradual schedule
SYNFLOW_STEPS = 100  # Tanaka et al. 2020


@dataclass(frozen=True)
class DenseWeights:
    """Weights of the dense network besides its final ones, by tensor name.

    `init` are those before training and `rewind` those after the rewind epoch. `fresh` builds a
    dense network with other initial weights.
    """

    init: Mapping[str, Tensor]
    rewind: Mapping[str, Tensor]
    fresh: Callable[[], nn.Module]


class Training(Protocol):
    """What a schedule needs of training; `Retrainer` is the pipeline's.

    `loss` is that of criteria that look at gradients; None stands for cross-entropy. `name` tells
    apart the trainings of one schedule. `accuracies` are those on training examples and on the
    validation split, 0 to 1, or None if they are not known.
    """

    @property
    def loss(self) -> LossFunction | None: ...

    def place(self, model: nn.Module) -> None:
        """Move a network to where it is trained."""

    def sample_batches(self, examples: int) -> Iterable[tuple[Tensor, Tensor]]:
        """So many training examples in batches; the same at every call."""

    def fine_tune(
        self, model: nn.Module, epochs: int, *, callback: Callback, name: str
    ) -> TrainResult: ...

    def retrain_from_rewind(
        self, model: nn.Module, *, callback: Callback, name: str
    ) -> TrainResult: ...

    def accuracies(self, model: nn.Module) -> tuple[float, float] | None: ...


@dataclass
class PruningRun:
    """One network on its way through a schedule.

    Without a `retrainer` the run can neither train nor show examples to the criterion. Only
    methods that rewind need `dense_weights`. `example` is one input, [1, ...], on the CPU.
    """

    model: nn.Module
    spec: PruneSpec
    criterion: Criterion
    pruner: Pruner
    example: Tensor
    seed: int
    retrainer: Training | None = None
    restart: Restart = Restart.NONE
    dense_weights: DenseWeights | None = None

    steps_done: int = 0
    train_macs: int = 0
    rounds: list[dict[str, float]] = field(default_factory=list)

    @property
    def target_ratio(self) -> float:
        """The share that is removed when the schedule ends."""
        return self.spec.ratio

    def prune_to(self, step_ratio: float) -> PruneResult:
        """One step: remove the least salient weights or units, up to this share of the network."""
        result = self.pruner.prune_to(self.saliency(), step_ratio)
        self.steps_done += 1
        self.place_model()
        return result

    def saliency(self) -> Saliency:
        self.place_model()

        # The first step draws the same random numbers as the only step of a one-shot method, so
        # random controls of one-shot and iterative methods start alike.
        labels: tuple[str | int, ...] = ("prune", self.seed)
        if self.steps_done:
            labels = (*labels, self.steps_done)

        batches = partial(self.sample_batches, self.spec.samples)
        loss = None if self.retrainer is None else self.retrainer.loss
        calibration = CalibrationData(generator(*labels), batches, loss)
        return self.criterion(self.model, calibration)

    def sample_batches(self, examples: int) -> Iterable[tuple[Tensor, Tensor]]:
        """Training examples in batches, the same at every call; none without a retrainer."""
        if self.retrainer is None:
            return []
        return self.retrainer.sample_batches(examples)

    @property
    def rewinds(self) -> bool:
        """Whether the network goes back to the weights of the rewind epoch after every step."""
        return self.restart is Restart.WEIGHTS and self.dense_weights is not None

    def rewind_weights(self) -> None:
        """Put the weights of the rewind epoch into what is left of the network."""
        assert self.dense_weights is not None
        self.pruner.load_weights(self.dense_weights.rewind, self.dense_weights.fresh)

    def fine_tune(self, name: str, callback: Callback) -> None:
        """Train for `spec.epochs` epochs by the fine-tuning recipe."""
        assert self.retrainer is not None, "this schedule trains"
        epochs = self.spec.epochs
        self._count_macs(self.retrainer.fine_tune(self.model, epochs, callback=callback, name=name))

    def retrain_from_rewind(self, name: str, callback: Callback) -> None:
        """Train by the base recipe from the rewind epoch on."""
        assert self.retrainer is not None, "this schedule trains"
        self._count_macs(
            self.retrainer.retrain_from_rewind(self.model, callback=callback, name=name)
        )

    def accuracies(self, when: str) -> dict[str, float]:
        """Accuracies, 0 to 1, for a row of `rounds`; `when` ends the names of its columns."""
        assert self.retrainer is not None, "this schedule trains"
        accuracies = self.retrainer.accuracies(self.model)
        if accuracies is None:
            return {}

        train, validation = accuracies
        return {f"train_accuracy_{when}": train, f"validation_accuracy_{when}": validation}

    def _count_macs(self, trained: TrainResult) -> None:
        self.train_macs += training_macs(self.model, self.example, trained.images_seen)

    def place_model(self) -> None:
        """Move the network to where it is trained."""
        if self.retrainer is not None:
            self.retrainer.place(self.model)


Schedule = Callable[[PruningRun], PruneResult]


def one_shot(run: PruningRun) -> PruneResult:
    """Prune once to the target ratio (Li et al. 2017). Fine-tuning follows in the pipeline."""
    return run.prune_to(run.target_ratio)


def iterative(run: PruningRun) -> PruneResult:
    """Prune in `iterations` equal shares of what is left, and train in between (Han et al. 2015).

    After step k of n the share removed is 1 - (1 - target_ratio)^(k/n). Methods that rewind go
    back to earlier weights after every step and repeat base training from there (lottery tickets,
    Frankle & Carbin 2019, Frankle et al. 2020); the others fine-tune for `epochs` epochs. The
    training after the last step is the pipeline's own fine-tuning.
    """
    steps = run.spec.iterations
    dense_parameters = parameters(run.model)

    for step in range(1, steps + 1):
        result = run.prune_to(_geometric_ratio(run.target_ratio, step, steps))
        row: dict[str, float] = {"round": step}
        row |= _count_parameters(run.model, result, dense_parameters)
        row |= run.accuracies("pruned")

        if step < steps:
            _train_between_steps(run, result, name=f"round-{step}")
            row |= run.accuracies("tuned")
        run.rounds.append(row)

    return result


def _train_between_steps(run: PruningRun, result: PruneResult, name: str) -> None:
    if run.rewinds:
        run.rewind_weights()

    keep_zeros = CallAfterStep(masking.hold(run.model, result.masks))
    if run.rewinds:
        run.retrain_from_rewind(name, keep_zeros)
    else:
        run.fine_tune(name, keep_zeros)


def _count_parameters(
    model: nn.Module, result: PruneResult, dense_parameters: int
) -> dict[str, float]:
    """Parameters of the dense network, those that masks keep, and those that still exist."""
    existing = parameters(model)
    masked = sum(mask.numel() - int(mask.sum()) for mask in result.masks.values())

    return {
        "fraction_left": (existing - masked) / dense_parameters,
        "params_original": dense_parameters,
        "params_unmasked": existing - masked,
        "params_left": existing,
    }


def repeated(run: PruningRun) -> PruneResult:
    """Prune in 100 steps without training, and score again before each step.

    This is the schedule of SynFlow (Tanaka et al. 2020). After step k of n the share removed is
    1 - (1 - target_ratio)^(k/n).
    """
    for step in range(1, SYNFLOW_STEPS + 1):
        result = run.prune_to(_geometric_ratio(run.target_ratio, step, SYNFLOW_STEPS))
    return result


def _geometric_ratio(target_ratio: float, step: int, steps: int) -> float:
    """The share removed after a step if every step removes the same share of what is left."""
    if step == steps:
        return target_ratio  # exactly: the power below would round
    share_left: float = (1 - target_ratio) ** (step / steps)
    return 1 - share_left


def gradual(run: PruningRun) -> PruneResult:
    """Masks that grow while the network trains for `epochs` epochs (Zhu & Gupta 2017).

    At progress t of the training, 0 to 1, the share removed is target_ratio x (1 - (1 - t)^3).
    """
    if run.spec.epochs:
        run.fine_tune("gradual", _GradualMasks(run))
    return run.prune_to(run.target_ratio)


class _GradualMasks(Callback):
    def __init__(self, run: PruningRun) -> None:
        run.place_model()
        self._run = run
        self._updates = -1
        self._progress = 0.0
        self._held = masking.HeldMasks(prunable_weights(run.model))

    def before_epoch(self, epoch: int) -> None:
        self._progress = epoch / self._run.spec.epochs
        self._update_masks()

    def before_step(self, progress: float) -> bool:
        self._progress = progress
        return self._is_due()

    def after_step(self) -> None:
        if self._is_due():
            self._update_masks()
        self._held()

    def _is_due(self) -> bool:
        return self._updates_by_now() > self._updates

    def _update_masks(self) -> None:
        run = self._run
        self._updates = self._updates_by_now()

        step_ratio = run.target_ratio * (1 - (1 - self._progress) ** 3)
        result = run.pruner.prune_to(run.saliency(), step_ratio)
        self._held.update(result.masks)

    def _updates_by_now(self) -> int:
        return int(self._progress * self._run.spec.epochs * GRADUAL_UPDATES)


def soft(run: PruningRun) -> PruneResult:
    """Zero the least salient units before every epoch, but let them learn (He et al. 2018).

    Units are selected again each time, so a unit may return. After `epochs` epochs the least
    salient ones are removed for good.
    """
    if run.spec.epochs:
        run.fine_tune("soft", _SoftPruning(run))
    return run.prune_to(run.target_ratio)


class _SoftPruning(Callback):
    def __init__(self, run: PruningRun) -> None:
        self._run = run

    def before_epoch(self, epoch: int) -> None:
        self._run.pruner.zero_units(self._run.saliency(), self._run.target_ratio)


def sparse(penalty: Callable[[SelectedUnits, float], Penalty]) -> Schedule:
    """Train for `epochs` epochs with a regulariser that makes units small, then prune once.

    The loss of a step becomes loss + penalty(progress); `penalties.py` has the regularisers and
    their papers.
    """

    def schedule(run: PruningRun) -> PruneResult:
        if run.spec.epochs:
            selected = run.pruner.selected_units(run.saliency(), run.target_ratio)
            run.fine_tune("sparse", _Regularised(penalty(selected, run.spec.penalty)))
        return run.prune_to(run.target_ratio)

    return schedule


class _Regularised(Callback):
    def __init__(self, penalty: Penalty) -> None:
        self._penalty = penalty

    def penalty(self, progress: float | Tensor) -> Tensor | None:
        return self._penalty(progress)


_ENTRIES: dict[str, Schedule] = {
    "one_shot": one_shot,
    "iterative": iterative,
    "repeated": repeated,
    "gradual": gradual,
    "soft": soft,
    "sparse (scales)": sparse(penalties.scales),
    "sparse (group_lasso)": sparse(penalties.group_lasso),
    "sparse (growing_l2)": sparse(penalties.growing_l2),
}
SCHEDULES = Table("schedule", _ENTRIES, called_with=("run",))
