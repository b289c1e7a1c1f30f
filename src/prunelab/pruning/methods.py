"""METHODS: the pruning methods by name, one line each: criterion x granularity x scope x schedule."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from prunelab.errors import Refused
from prunelab.models.catalogue import MODELS, Shape, example, fixed_layers, prunable_weights
from prunelab.models.norms import recalibrate
from prunelab.params import PruneSpec, Train
from prunelab.pruning import attention, channels, criteria, granularity, groups, masks, penalties, schedules
from prunelab.pruning.criteria import Criterion
from prunelab.pruning.cutting import Cutter, Pruned
from prunelab.pruning.granularity import Granularity, Saliency
from prunelab.pruning.group_cutter import GroupCutter
from prunelab.pruning.groups import Group
from prunelab.pruning.mask_cutter import MaskCutter
from prunelab.pruning.restart import Restart
from prunelab.pruning.schedules import Schedule, Session, Trainer
from prunelab.registry import pick

Kind = Literal["channel", "head", "hidden"]


@dataclass(frozen=True)
class Method:
    """A line of the table. A granularity makes masks; a kind of units (channels, heads, ...) is removed for real."""

    criterion: Criterion
    granularity: Granularity | Kind
    scope: masks.Scope | groups.Scope
    schedule: Schedule = schedules.one_shot
    restart: Restart = Restart.NONE

    @property
    def masks(self) -> bool:
        return isinstance(self.granularity, Granularity)


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
) -> Pruned:
    """Prune a network in place; the same seed gives the same result.

    `bases` is for methods that start again from other weights than the network's own.

    Raises:
        Refused: if the method is unknown or cannot apply, or what can be achieved misses the ratio by more than
            rounding allows.
    """
    method = pick(METHODS, spec.method, "method")
    if method.restart is Restart.INIT and bases:
        model.load_state_dict(bases.init)
    cutter = _cutter(method, model, architecture, spec, shape)
    session = Session(model, spec, method.criterion, cutter, shape, seed, trainer)
    if method.restart is Restart.WEIGHTS and bases:
        session.rewind = partial(cutter.take_over, bases.rewind, bases.fresh)
    pruned = method.schedule(session)
    if session.rewind:
        session.rewind()
    if method.restart is Restart.SCRATCH and bases:
        cutter.take_over(bases.fresh().state_dict(), bases.fresh)
    if spec.recalibrate:
        recalibrate(model, trainer.batches(spec.recalibrate)())
    return pruned


def unreachable(
    model: nn.Module, architecture: str, specs: Sequence[PruneSpec], *, shape: Shape, train: Train
) -> list[str]:
    """One line for every spec that cannot be met on this network, as can be told before any training."""
    found: dict[Kind, list[Group]] = {}
    problems = []
    for spec in specs:
        method = pick(METHODS, spec.method, "method")
        if method.restart is not Restart.NONE and not train.epochs:
            problems.append(f"{spec.method} trains by the base recipe again, but train.epochs is 0")
        try:
            _plan(method, model, architecture, spec, shape, found)
        except Refused as refused:
            problems += refused.problems
    return list(dict.fromkeys(problems))


def _plan(
    method: Method, model: nn.Module, architecture: str, spec: PruneSpec, shape: Shape, found: dict[Kind, list[Group]]
) -> None:
    """Go through a cut without touching the network; raises Refused. `found` saves tracing it twice."""
    if isinstance(method.granularity, Granularity):
        shapes = {name: weight.shape for name, weight in prunable_weights(model).items()}
        if reason := granularity.why_not(shapes, method.granularity, spec.ratio, spec):
            raise Refused(f"{spec.method}: {reason}")
        return
    kind = method.granularity
    if kind not in found:
        found[kind] = _find(kind, architecture, shape, spec.method, model)
    cutter = _cutter(method, model, architecture, spec, shape, found[kind])
    assert isinstance(cutter, GroupCutter)
    # Which units go depends on the criterion, but how many does so only where layers are ranked together.
    noise = {
        n: torch.rand(w.shape, generator=torch.Generator().manual_seed(0)) for n, w in prunable_weights(model).items()
    }
    planned, widths = cutter.plan(noise, spec.ratio)
    if method.scope is groups.uniform or spec.budget == "native":
        cutter.refuse(planned, widths, spec.ratio)


def _noise(model: nn.Module) -> Saliency:
    random = torch.Generator().manual_seed(0)
    return {name: torch.rand(weight.shape, generator=random) for name, weight in prunable_weights(model).items()}


def _cutter(
    method: Method,
    model: nn.Module,
    architecture: str,
    spec: PruneSpec,
    shape: Shape,
    known: list[Group] | None = None,
) -> Cutter:
    inputs = example(shape)
    if isinstance(method.granularity, Granularity):
        head = MODELS[architecture].head
        whole = [head] if method.granularity is granularity.FILTER else []  # a class must not vanish
        return MaskCutter(model, spec, method.granularity, method.scope, whole=whole, example=inputs)  # type: ignore[arg-type]
    find = partial(_find, method.granularity, architecture, shape, spec.method)
    return GroupCutter(model, spec, method.scope, find=find, example=inputs, known=known)  # type: ignore[arg-type]


def _find(kind: Kind, architecture: str, shape: Shape, method: str, model: nn.Module) -> list[Group]:
    """The groups of one kind in a network; raises Refused if it has none, with what would work."""
    encoder = attention.find(model)
    if encoder or kind != "channel":
        found = [group for group in encoder if group.kind == kind]
    else:
        found = channels.find(model, fixed_layers(architecture, model), example(shape))
    if not found:
        others = [name for name, other in METHODS.items() if other.granularity in _kinds(encoder)]
        raise Refused(f"{method}: {architecture} has no {kind}s to remove; these would work: {', '.join(others)}")
    return found


def _kinds(encoder: Sequence[Group]) -> set[str]:
    return {group.kind for group in encoder} or {"channel"}


GLOBAL, LAYERWISE, ROWWISE = masks.Scope.GLOBAL, masks.Scope.LAYERWISE, masks.Scope.ROWWISE
UNIFORM, TOGETHER = groups.uniform, groups.ranked_together
WEIGHT, N_OF_M, PATTERN = granularity.WEIGHT, granularity.N_OF_M, granularity.PATTERN
VECTOR, KERNEL, BLOCK, FILTER = granularity.VECTOR, granularity.KERNEL, granularity.BLOCK, granularity.FILTER

METHODS: dict[str, Method] = {
    # single weights
    "random_unstructured": Method(criteria.random, WEIGHT, GLOBAL),
    "l1_unstructured": Method(criteria.l1, WEIGHT, GLOBAL),
    "taylor_unstructured": Method(criteria.taylor, WEIGHT, GLOBAL),
    "fisher_unstructured": Method(criteria.fisher, WEIGHT, GLOBAL),
    "lamp_unstructured": Method(criteria.lamp, WEIGHT, GLOBAL),
    "wanda_unstructured": Method(criteria.wanda, WEIGHT, ROWWISE),
    "snip_unstructured": Method(criteria.snip, WEIGHT, GLOBAL),
    "grasp_unstructured": Method(criteria.grasp, WEIGHT, GLOBAL),
    "synflow_unstructured": Method(criteria.synflow, WEIGHT, GLOBAL, schedules.repeated),
    "random_unstructured_layerwise": Method(criteria.random, WEIGHT, LAYERWISE),
    "l1_unstructured_layerwise": Method(criteria.l1, WEIGHT, LAYERWISE),
    # single weights, chosen at initialisation
    "random_at_init": Method(criteria.random, WEIGHT, GLOBAL, restart=Restart.INIT),
    "snip_at_init": Method(criteria.snip, WEIGHT, GLOBAL, restart=Restart.INIT),
    "grasp_at_init": Method(criteria.grasp, WEIGHT, GLOBAL, restart=Restart.INIT),
    "synflow_at_init": Method(criteria.synflow, WEIGHT, GLOBAL, schedules.repeated, Restart.INIT),
    # single weights, over time
    "random_unstructured_iterative": Method(criteria.random, WEIGHT, GLOBAL, schedules.iterative),
    "l1_unstructured_iterative": Method(criteria.l1, WEIGHT, GLOBAL, schedules.iterative),
    "l1_unstructured_gradual": Method(criteria.l1, WEIGHT, GLOBAL, schedules.gradual),
    "l1_unstructured_lottery": Method(criteria.l1, WEIGHT, GLOBAL, schedules.iterative, Restart.WEIGHTS),
    "random_unstructured_lottery": Method(criteria.random, WEIGHT, GLOBAL, schedules.iterative, Restart.WEIGHTS),
    "l1_unstructured_rate_rewinding": Method(criteria.l1, WEIGHT, GLOBAL, restart=Restart.RATE),
    "l1_unstructured_scratch": Method(criteria.l1, WEIGHT, GLOBAL, restart=Restart.SCRATCH),
    # weights in units
    "random_n_of_m": Method(criteria.random, N_OF_M, LAYERWISE),
    "l1_n_of_m": Method(criteria.l1, N_OF_M, LAYERWISE),
    "random_pattern": Method(criteria.random, PATTERN, LAYERWISE),
    "l1_pattern": Method(criteria.l1, PATTERN, LAYERWISE),
    "random_vector": Method(criteria.random, VECTOR, LAYERWISE),
    "l1_vector": Method(criteria.l1, VECTOR, LAYERWISE),
    "random_kernel": Method(criteria.random, KERNEL, LAYERWISE),
    "l1_kernel": Method(criteria.l1, KERNEL, LAYERWISE),
    "random_block": Method(criteria.random, BLOCK, LAYERWISE),
    "l1_block": Method(criteria.l1, BLOCK, LAYERWISE),
    "random_filter": Method(criteria.random, FILTER, LAYERWISE),
    "l1_filter": Method(criteria.l1, FILTER, LAYERWISE),
    "l2_filter": Method(criteria.l2, FILTER, LAYERWISE),
    # channels, removed for real
    "random_channel": Method(criteria.random, "channel", UNIFORM),
    "l1_channel": Method(criteria.l1, "channel", UNIFORM),
    "l2_channel": Method(criteria.l2, "channel", UNIFORM),
    "bn_scale_channel": Method(criteria.bn_scale, "channel", UNIFORM),
    "taylor_channel": Method(criteria.taylor_filter, "channel", UNIFORM),
    "fisher_channel": Method(criteria.fisher, "channel", UNIFORM),
    "fpgm_channel": Method(criteria.fpgm, "channel", UNIFORM),
    "lamp_channel": Method(criteria.lamp, "channel", UNIFORM),
    "wanda_channel": Method(criteria.wanda, "channel", UNIFORM),
    "random_channel_global": Method(criteria.random, "channel", TOGETHER),
    "l1_channel_global": Method(criteria.l1, "channel", TOGETHER),
    "bn_scale_channel_global": Method(criteria.bn_scale, "channel", TOGETHER),
    "taylor_channel_global": Method(criteria.taylor_filter, "channel", TOGETHER),
    "fisher_channel_global": Method(criteria.fisher, "channel", TOGETHER),
    # channels, over time
    "random_channel_iterative": Method(criteria.random, "channel", UNIFORM, schedules.iterative),
    "l1_channel_iterative": Method(criteria.l1, "channel", UNIFORM, schedules.iterative),
    "l2_channel_iterative": Method(criteria.l2, "channel", UNIFORM, schedules.iterative),
    "l2_channel_soft": Method(criteria.l2, "channel", UNIFORM, schedules.soft),
    "bn_scale_channel_sparse": Method(criteria.bn_scale, "channel", TOGETHER, schedules.sparse(penalties.scales)),
    "group_lasso_channel_sparse": Method(criteria.l2, "channel", TOGETHER, schedules.sparse(penalties.group_lasso)),
    "growing_l2_channel_sparse": Method(criteria.l1, "channel", UNIFORM, schedules.sparse(penalties.growing_l2)),
    "l1_channel_scratch": Method(criteria.l1, "channel", UNIFORM, restart=Restart.SCRATCH),
    # attention heads and feed-forward units of encoders, removed for real
    "random_head": Method(criteria.random, "head", UNIFORM),
    "l1_head": Method(criteria.l1, "head", UNIFORM),
    "taylor_head": Method(criteria.taylor, "head", UNIFORM),
    "random_hidden": Method(criteria.random, "hidden", UNIFORM),
    "l1_hidden": Method(criteria.l1, "hidden", UNIFORM),
    "taylor_hidden": Method(criteria.taylor, "hidden", UNIFORM),
}
