"""Schedules: when a network is cut, and how it trains in between. Each takes a session and returns what was done."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

from prunelab.config.params import PruneSpec
from prunelab.models.catalogue import Shape
from prunelab.models.cost import parameters, training_macs
from prunelab.pruning.criteria import CalibrationData, Criterion
from prunelab.pruning.pruner import Pruner, PruneResult
from prunelab.pruning.structured.penalties import Penalty, SelectedUnits
from prunelab.pruning.unstructured.ranking import Saliency
from prunelab.runtime.device import generator
from prunelab.training import masking
from prunelab.training.loop import CallAfterStep, Callback, TrainResult

GRADUAL_CUTS = 10  # mask updates per epoch of a gradual schedule
SYNFLOW_ROUNDS = 100  # Tanaka et al. 2020


class Trainer(Protocol):
    """What a schedule needs to train: made by the stage, which knows data, recipes and where checkpoints go."""

    def place(self, model: nn.Module) -> None:
        """Move a network to where it trains."""

    def batches(self, examples: int) -> Callable[[], Iterable[tuple[Tensor, Tensor]]]:
        """Training examples, not augmented, the same at every call."""

    def fit(self, model: nn.Module, name: str, guide: Callback, epochs: int) -> TrainResult:
        """Train by the fine-tuning recipe for so many epochs; `name` tells one training of a schedule from another."""

    def refit(self, model: nn.Module, name: str, guide: Callback) -> TrainResult:
        """Train by the base recipe from the epoch that is rewound to."""

    def accuracies(self, model: nn.Module) -> tuple[float, float]:
        """Accuracy on (as many training examples as there are for validation, the validation split)."""


@dataclass
class PruningRun:
    """One network on its way through a schedule."""

    model: nn.Module
    spec: PruneSpec
    criterion: Criterion
    cutter: Pruner
    shape: Shape
    seed: int
    trainer: Trainer
    rewind: Callable[[], None] | None = (
        None  # puts the rewound weights into what is left of the network
    )
    cuts: int = 0
    train_macs: int = 0
    rounds: list[dict[str, float]] = field(default_factory=list)

    def saliency(self) -> Saliency:
        self.trainer.place(self.model)
        # The first cut draws as a lone one does, so that one-shot and iterative controls begin alike.
        labels = ("prune", self.seed, self.cuts) if self.cuts else ("prune", self.seed)
        return self.criterion(
            self.model, CalibrationData(generator(*labels), self.trainer.batches(self.spec.samples))
        )

    def cut(self, ratio: float) -> PruneResult:
        pruned = self.cutter.prune_to(self.saliency(), ratio)
        self.cuts += 1
        self.trainer.place(self.model)
        pruned.rounds, pruned.train_macs = self.rounds, self.train_macs
        return pruned

    def train(self, name: str, guide: Callback, epochs: int | None) -> None:
        """So many epochs of fine-tuning, or None: the base training from the rewind epoch on."""
        if epochs is None:
            fitted = self.trainer.refit(self.model, name, guide)
        else:
            fitted = self.trainer.fit(self.model, name, guide, epochs)
        self.train_macs += training_macs(self.model, self.shape, fitted.images_seen)


Schedule = Callable[[PruningRun], PruneResult]


def one_shot(session: PruningRun) -> PruneResult:
    """One cut."""
    return session.cut(session.spec.ratio)


def iterative(session: PruningRun) -> PruneResult:
    """Cuts of equal shares of what remains, with training between them (Han et al. 2015).

    After `iterations` cuts the ratio is met: each takes 1 - (1 - ratio)^(1/iterations) of what is left. With weights to
    rewind to, training between goes back to them and follows the base recipe (Frankle & Carbin 2019, Frankle et al.
    2020). The training after the last cut is the pipeline's own fine-tuning.
    """
    total, spec = session.spec.iterations, session.spec
    full = parameters(session.model)
    for index in range(1, total + 1):
        pruned = session.cut(
            spec.ratio if index == total else 1 - (1 - spec.ratio) ** (index / total)
        )
        row = {
            "round": index,
            **_left(session.model, pruned, full),
            **_accuracies(session, "pruned"),
        }
        session.rounds.append(row)
        if index < total:
            if session.rewind:
                session.rewind()
            hold = CallAfterStep(masking.hold(session.model, pruned.masks))
            session.train(f"round-{index}", hold, None if session.rewind else spec.epochs)
            row |= _accuracies(session, "tuned")
    return pruned


def _left(model: nn.Module, pruned: PruneResult, full: int) -> dict[str, float]:
    """Parameters of the original network, those not masked, and those really still there."""
    masked = sum(mask.numel() - int(mask.sum()) for mask in pruned.masks.values())
    there = parameters(model)
    return {
        "fraction_left": (there - masked) / full,
        "params_original": full,
        "params_unmasked": there - masked,
        "params_left": there,
    }


def _accuracies(session: PruningRun, when: str) -> dict[str, float]:
    train, validation = session.trainer.accuracies(session.model)
    return {f"train_accuracy_{when}": train, f"validation_accuracy_{when}": validation}


def repeated(session: PruningRun) -> PruneResult:
    """Many cuts of equal shares without training between, the criterion measured anew (Tanaka et al. 2020)."""
    for index in range(1, SYNFLOW_ROUNDS):
        session.cut(1 - (1 - session.spec.ratio) ** (index / SYNFLOW_ROUNDS))
    return session.cut(session.spec.ratio)


def gradual(session: PruningRun) -> PruneResult:
    """Masks that grow by a cubic while the network trains for `epochs` (Zhu & Gupta 2017)."""
    if session.spec.epochs:
        session.train("gradual", _Gradual(session), session.spec.epochs)
    return session.cut(session.spec.ratio)


class _Gradual(Callback):
    def __init__(self, session: PruningRun):
        self._session, self._updates, self._zero = session, -1, lambda: None

    def before_epoch(self, epoch: int) -> None:
        self._update(epoch / self._session.spec.epochs)

    def after_step(self, progress: float) -> None:
        if int(progress * self._session.spec.epochs * GRADUAL_CUTS) > self._updates:
            self._update(progress)
        self._zero()

    def _update(self, progress: float) -> None:
        session = self._session
        self._updates = int(progress * session.spec.epochs * GRADUAL_CUTS)
        ratio = session.spec.ratio * (1 - (1 - progress) ** 3)
        self._zero = masking.hold(
            session.model, session.cutter.prune_to(session.saliency(), ratio).masks
        )


def soft(session: PruningRun) -> PruneResult:
    """Soft filter pruning (He et al. 2018): ahead of every epoch the least salient units are zeroed, but learn on.

    The threshold is found anew each time, so that a unit may return; after `epochs` they are removed for real.
    """
    if session.spec.epochs:
        session.train("soft", _Soft(session), session.spec.epochs)
    return session.cut(session.spec.ratio)


class _Soft(Callback):
    def __init__(self, session: PruningRun):
        self._session = session

    def before_epoch(self, epoch: int) -> None:
        self._session.cutter.zero_units(self._session.saliency(), self._session.spec.ratio)


def sparse(penalty: Callable[[SelectedUnits, float], Penalty]) -> Schedule:
    """Training with a regulariser that makes units small, for `epochs`, and then one cut."""

    def schedule(session: PruningRun) -> PruneResult:
        if session.spec.epochs:
            doomed = session.cutter.selected_units(session.saliency(), session.spec.ratio)
            session.train(
                "sparse", _Regularised(penalty(doomed, session.spec.penalty)), session.spec.epochs
            )
        return session.cut(session.spec.ratio)

    schedule.__name__ = f"sparse ({penalty.__name__})"
    return schedule


class _Regularised(Callback):
    def __init__(self, penalty: Penalty):
        self._penalty = penalty

    def penalty(self, progress: float) -> Tensor | None:
        return self._penalty(progress)
