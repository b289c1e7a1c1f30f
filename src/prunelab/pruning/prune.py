"""Apply a method to a network, or tell beforehand why it cannot be."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from prunelab.config.params import PruneSpec, Train
from prunelab.config.restart import Restart
from prunelab.core.errors import InputError
from prunelab.core.registry import pick
from prunelab.models.catalogue import MODELS, Shape, example_input, fixed_layers, prunable_weights
from prunelab.models.frozen import within
from prunelab.models.norms import recalibrate
from prunelab.pruning import criteria
from prunelab.pruning.criteria import CalibrationData
from prunelab.pruning.methods import METHODS, Kind, Method
from prunelab.pruning.pruner import Pruner, PruneResult
from prunelab.pruning.schedules import PruningRun, Trainer
from prunelab.pruning.structured import attention, channels, groups
from prunelab.pruning.structured.channel_pruner import StructuredPruner
from prunelab.pruning.structured.groups import UNITS, Group
from prunelab.pruning.unstructured import granularity, select
from prunelab.pruning.unstructured.granularity import Granularity
from prunelab.pruning.unstructured.mask_pruner import MaskPruner
from prunelab.pruning.unstructured.ranking import Saliency


@dataclass(frozen=True)
class Bases:
    """Weights of the dense network besides its final ones, by tensor name, and a maker of fresh ones (by seed)."""

    init: Mapping[str, Tensor]
    rewind: Mapping[str, Tensor]
    fresh: Callable[[], nn.Module]


def prune(
    model: nn.Module,
    architecture: str,
    spec: PruneSpec,
    *,
    shape: Shape,
    seed: int,
    trainer: Trainer,
    bases: Bases | None = None,
) -> PruneResult:
    """Prune a network in place; the same seed gives the same result.

    `bases` is for methods that start again from other weights than the network's own.

    Raises:
        InputError: if the method is unknown or cannot apply, or what can be achieved misses the ratio by more than
            rounding allows.
    """
    method = pick(METHODS, spec.method, "method")
    if problems := _matching_nothing(model, spec):
        raise InputError(problems)
    if method.restart is Restart.INIT and bases:
        model.load_state_dict(bases.init)
    cutter = _cutter(method, model, architecture, spec, shape)
    session = PruningRun(model, spec, method.criterion, cutter, shape, seed, trainer)
    if method.restart is Restart.WEIGHTS and bases:
        session.rewind = partial(cutter.load_weights, bases.rewind, bases.fresh)
    pruned = method.schedule(session)
    if session.rewind:
        session.rewind()
    if method.restart is Restart.SCRATCH and bases:
        cutter.load_weights(bases.fresh().state_dict(), bases.fresh)
    if spec.recalibrate:
        recalibrate(model, trainer.batches(spec.recalibrate)())
    return pruned


def infeasible_specs(
    model: nn.Module, architecture: str, specs: Sequence[PruneSpec], *, shape: Shape, train: Train
) -> list[str]:
    """One line for every spec that cannot be met on this network, as can be told before any training."""
    found: dict[Kind, list[Group]] = {}
    problems = []
    for spec in specs:
        method = pick(METHODS, spec.method, "method")
        if method.restart is not Restart.NONE and not train.epochs:
            problems.append(f"{spec.method} trains by the base recipe again, but train.epochs is 0")
        elif (
            method.restart in (Restart.WEIGHTS, Restart.RATE) and train.rewind_epoch >= train.epochs
        ):
            problems.append(
                f"{spec.method} trains from epoch train.rewind_epoch = {train.rewind_epoch} to train.epochs = "
                f"{train.epochs}, which is nothing; rewind_epoch must be less"
            )
        problems += _matching_nothing(model, spec)
        try:
            _plan(method, model, architecture, spec, shape, found)
        except InputError as refused:
            problems += refused.problems
    return list(dict.fromkeys(problems))


def _plan(
    method: Method,
    model: nn.Module,
    architecture: str,
    spec: PruneSpec,
    shape: Shape,
    found: dict[Kind, list[Group]],
) -> None:
    """Go through a cut without touching the network; raises InputError. `found` saves tracing it twice."""
    judged = _judged(method, model, shape)
    if isinstance(method.granularity, Granularity):
        cutter = _cutter(method, model, architecture, spec, shape)
        assert isinstance(cutter, MaskPruner)
        try:
            cutter.check_feasible(spec.ratio)
        except InputError as refused:
            raise InputError(
                line if spec.method in line else f"{spec.method}: {line}"
                for line in refused.problems
            ) from None
        return
    kind = method.granularity
    if kind not in found:
        found[kind] = find_groups(kind, architecture, shape, spec.method, model)
    cutter = _cutter(method, model, architecture, spec, shape, found[kind])
    assert isinstance(cutter, StructuredPruner)
    # Which units go depends on the criterion, but how many does so only where layers are ranked together.
    planned, widths = cutter.plan(judged, spec.ratio)
    cutter.check_feasible(
        planned,
        widths,
        spec.ratio,
        exactly=method.scope is groups.uniform or spec.budget == "native",
    )


def _judged(method: Method, model: nn.Module, shape: Shape) -> Saliency:
    """What stands in for a saliency until the network is trained: noise, for the layers that the criterion judges.

    Raises:
        InputError: by criteria that do not apply to such a network.
    """
    random = torch.Generator().manual_seed(0)
    names = set(prunable_weights(model))
    if method.criterion in (criteria.bn_scale, criteria.synflow):
        one = example_input(shape), torch.zeros(1, dtype=torch.int64)
        names = set(method.criterion(model, CalibrationData(random, lambda: [one])))
    return {
        n: torch.rand(w.shape, generator=random)
        for n, w in prunable_weights(model).items()
        if n in names
    }


def _matching_nothing(model: nn.Module, spec: PruneSpec) -> list[str]:
    layers = [name.rpartition(".")[0] for name in prunable_weights(model)]
    return [
        f"prune.{key}: {pattern!r} matches no layer that can be pruned; there are {', '.join(layers[:4])} ..."
        for key, patterns in (("protect", spec.protect), ("layer_ratios", spec.layer_ratios))
        for pattern in patterns
        if not any(within(layer, pattern) for layer in layers)
    ]


def _cutter(
    method: Method,
    model: nn.Module,
    architecture: str,
    spec: PruneSpec,
    shape: Shape,
    known: list[Group] | None = None,
) -> Pruner:
    inputs = example_input(shape)
    if isinstance(method.granularity, Granularity):
        head = MODELS[architecture].head
        whole = []
        if method.granularity is granularity.FILTER:
            whole = [head]  # a class must not vanish

        assert isinstance(method.scope, select.Scope)
        return MaskPruner(
            model, spec, method.granularity, method.scope, whole=whole, example=inputs
        )

    find = partial(find_groups, method.granularity, architecture, shape, spec.method)
    return StructuredPruner(model, spec, method.scope, find=find, example=inputs, known=known)  # type: ignore[arg-type]


def find_groups(
    kind: Kind, architecture: str, shape: Shape, method: str, model: nn.Module
) -> list[Group]:
    """The groups of one kind in a network; raises InputError if it has none, with what would work."""
    encoder = attention.find(model)
    if encoder or kind != "channel":
        found = [group for group in encoder if group.kind == kind]
    else:
        found = channels.find(model, fixed_layers(architecture, model), example_input(shape))
    if not found:
        others = [name for name, other in METHODS.items() if other.granularity in _kinds(encoder)]
        raise InputError(
            f"{method}: {architecture} has no {UNITS[kind]} to remove; these would work: {', '.join(others)}"
        )
    return found


def _kinds(encoder: Sequence[Group]) -> set[str]:
    return {group.kind for group in encoder} or {"channel"}
