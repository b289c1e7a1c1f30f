"""Apply a method to a network, or check beforehand whether it can be applied.

`prune` and `infeasible_specs` are for networks of MODELS; `prune_network` is for any network whose
structure is known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from prunelab.config.params import PruneSpec, Train
from prunelab.config.restart import Restart
from prunelab.core.errors import InputError
from prunelab.core.plurals import UNITS
from prunelab.core.registry import pick, require
from prunelab.core.text import name_list
from prunelab.models.catalogue import Shape
from prunelab.models.frozen import within
from prunelab.models.networks import prunable_names, prunable_weights
from prunelab.models.norms import recalibrate
from prunelab.models.structure import Structure, registered_structure
from prunelab.pruning.criteria import CRITERIA, CalibrationData
from prunelab.pruning.criteria.probe import check_criterion
from prunelab.pruning.methods import KINDS, METHODS, Kind, Method
from prunelab.pruning.pruner import Pruner, PruneResult
from prunelab.pruning.schedules import SCHEDULES, DenseWeights, PruningRun, Training
from prunelab.pruning.structured import attention, channels
from prunelab.pruning.structured.groups import SCOPES, FoundGroups
from prunelab.pruning.structured.structured_pruner import StructuredPruner
from prunelab.pruning.unstructured.granularity import GRANULARITIES
from prunelab.pruning.unstructured.mask_pruner import MaskPruner
from prunelab.pruning.unstructured.ranking import Saliency
from prunelab.pruning.unstructured.select import Scope
from prunelab.training.retraining import Retrainer


def prune(
    model: nn.Module,
    architecture: str,
    spec: PruneSpec,
    *,
    shape: Shape,
    seed: int,
    retrainer: Retrainer | None = None,
    dense_weights: DenseWeights | None = None,
) -> PruneResult:
    """Prune a network in place. The same seed gives the same result.

    `architecture` is the network's name in the catalogue and `shape` that of one input. `retrainer`
    trains between steps and gives examples to criteria; None is for methods that need neither.
    `dense_weights` is for methods that restart from other weights than the network's own.

    Raises:
        InputError: if the method is unknown or cannot be applied, or if what can be removed misses
            the ratio by more than rounding allows.
    """
    structure = registered_structure(architecture, model, shape)
    return prune_network(
        model, structure, spec, seed=seed, retrainer=retrainer, dense_weights=dense_weights
    )


def prune_network(
    model: nn.Module,
    structure: Structure,
    spec: PruneSpec,
    *,
    seed: int,
    retrainer: Training | None = None,
    dense_weights: DenseWeights | None = None,
    nearest: bool = False,
) -> PruneResult:
    """Prune a network in place, as `prune` does.

    With `nearest`, a budget may be missed by as much as the largest single unit costs.

    Raises:
        InputError: as `prune` does.
    """
    method = check_parts(spec.method)
    check_criterion(method.criterion)
    if problems := _unmatched_patterns(model, spec):
        raise InputError(problems)

    if method.restart is Restart.INIT and dense_weights:
        model.load_state_dict(dense_weights.init)

    pruner = _build_pruner(method, model, structure, spec, nearest=nearest)
    run = PruningRun(
        model,
        spec,
        CRITERIA[method.criterion],
        pruner,
        structure.example,
        seed,
        retrainer,
        restart=method.restart,
        dense_weights=dense_weights,
    )
    result = SCHEDULES[method.schedule](run)

    if run.rewinds:
        run.rewind_weights()
    if method.restart is Restart.SCRATCH and dense_weights:
        pruner.load_weights(dense_weights.fresh().state_dict(), dense_weights.fresh)
    if spec.recalibrate:
        recalibrate(model, run.sample_batches(spec.recalibrate))

    return replace(result, rounds=run.rounds, train_macs=run.train_macs)


def check_parts(name: str) -> Method:
    """The method of that name, all of whose parts exist.

    Raises:
        InputError: if there is no such method, or no such part of it. Lines about a plugin's method
            begin with its place.
    """
    method = pick(METHODS, name, "method")
    origin = METHODS.origin(name)
    if origin is None:
        return method

    granularities: dict[str, object] = {**GRANULARITIES, **KINDS}
    scopes: dict[str, object] = dict(SCOPES)
    if method.masks:
        scopes = {str(scope): scope for scope in Scope}
    parts: list[tuple[Mapping[str, object], str, str]] = [
        (CRITERIA, method.criterion, "criterion"),
        (granularities, method.granularity, "granularity"),
        (scopes, method.scope, f"scope of {method.granularity}"),
        (SCHEDULES, method.schedule, "schedule"),
    ]
    for table, part, kind in parts:
        try:
            require(table, part, kind)
        except InputError as error:
            raise InputError(
                f"{origin.place}: method {name}: {problem}" for problem in error.problems
            ) from None
    return method


def infeasible_specs(
    model: nn.Module, architecture: str, specs: Sequence[PruneSpec], *, shape: Shape, train: Train
) -> list[str]:
    """One line for every reason why a spec cannot be met on this network.

    It finds the reasons that are known before any training, and does not change the network.
    """
    structure = registered_structure(architecture, model, shape)
    known_groups: dict[Kind, FoundGroups] = {}
    problems: list[str] = []
    for spec in specs:
        try:
            method = check_parts(spec.method)
            problems += _restart_problems(method, spec, train)
            problems += _unmatched_patterns(model, spec)
            check_feasible(model, structure, spec, known_groups)
        except InputError as error:
            problems += error.problems

    return list(dict.fromkeys(problems))


def check_feasible(
    model: nn.Module,
    structure: Structure,
    spec: PruneSpec,
    known_groups: dict[Kind, FoundGroups] | None = None,
    *,
    nearest: bool = False,
) -> None:
    """Check that a spec can be met on a network, without changing it.

    `known_groups` keeps the groups of the network from one call to the next: finding them is slow.
    `nearest` is as in `prune_network`.

    Raises:
        InputError: if it cannot; every line names the method.
    """
    method = pick(METHODS, spec.method, "method")
    saliency = _noise_saliency(method, model, structure.example)
    pruner = _build_pruner(method, model, structure, spec, known_groups, nearest=nearest)
    try:
        pruner.check_feasible(saliency)
    except InputError as error:
        lines = []
        for line in error.problems:
            if spec.method not in line:
                line = f"{spec.method}: {line}"
            lines.append(line)

        raise InputError(lines) from None


def _restart_problems(method: Method, spec: PruneSpec, train: Train) -> list[str]:
    if method.restart is Restart.NONE:
        return []

    if not train.epochs:
        return [
            f"{spec.method} repeats base training, but train.epochs is 0. "
            "Set train.epochs to 1 or more."
        ]

    rewinds = method.restart in (Restart.WEIGHTS, Restart.RATE)
    if rewinds and train.rewind_epoch >= train.epochs:
        return [
            f"{spec.method} trains from train.rewind_epoch = {train.rewind_epoch} to train.epochs "
            f"= {train.epochs}, which is no epoch at all. Use a smaller rewind_epoch."
        ]
    return []


def _unmatched_patterns(model: nn.Module, spec: PruneSpec) -> list[str]:
    """One line for every pattern in `protect` and `layer_ratios` that matches no layer."""
    layers = [name.rpartition(".")[0] for name in prunable_names(model)]

    problems = []
    for key, patterns in (("protect", spec.protect), ("layer_ratios", spec.layer_ratios)):
        for pattern in patterns:
            if not any(within(layer, pattern) for layer in layers):
                problems.append(
                    f"prune.{key}: {pattern!r} matches no layer that can be pruned. "
                    f"Layers are {', '.join(layers[:4])} ..."
                )

    return problems


def _noise_saliency(method: Method, model: nn.Module, example: Tensor) -> Saliency:
    """Noise in place of a saliency, for the layers that the criterion can score.

    How much can be removed depends on the layers, and hardly on the scores, which only a trained
    network has.

    Raises:
        InputError: if the criterion does not support such a network.
    """
    noise = torch.Generator().manual_seed(0)
    weights = prunable_weights(model)

    scored = set(weights)
    if method.criterion in ("bn_scale", "synflow"):
        batch = example, torch.zeros(1, dtype=torch.int64)
        calibration = CalibrationData(noise, lambda: [batch])
        scored = set(CRITERIA[method.criterion](model, calibration))

    saliency = {}
    for name, weight in weights.items():
        if name in scored:
            saliency[name] = torch.rand(weight.shape, generator=noise)
    return saliency


def _build_pruner(
    method: Method,
    model: nn.Module,
    structure: Structure,
    spec: PruneSpec,
    known_groups: dict[Kind, FoundGroups] | None = None,
    *,
    nearest: bool = False,
) -> Pruner:
    """The pruner of a method for one network; the last two arguments are as in `check_feasible`."""
    kind = method.kind
    if kind is None:
        return _build_mask_pruner(method, model, structure, spec, nearest=nearest)

    find = partial(groups_of, structure=structure, kind=kind, method=spec.method)

    if known_groups is None:
        known_groups = {}
    if kind not in known_groups:
        known_groups[kind] = find(model)

    return StructuredPruner(
        model,
        spec,
        SCOPES[method.scope],
        find_groups=find,
        example_input=structure.example,
        groups=known_groups[kind],
        nearest=nearest,
    )


def _build_mask_pruner(
    method: Method, model: nn.Module, structure: Structure, spec: PruneSpec, *, nearest: bool
) -> MaskPruner:
    # Each filter of the head is a class, and all of them must stay.
    protected_layers: Sequence[str] = []
    if method.granularity == "filter":
        protected_layers = structure.outputs

    return MaskPruner(
        model,
        spec,
        GRANULARITIES[method.granularity],
        Scope(method.scope),
        protected_layers=protected_layers,
        example_input=structure.example,
        nearest=nearest,
    )


def find_groups(
    model: nn.Module, *, architecture: str, kind: Kind, shape: Shape, method: str
) -> FoundGroups:
    """The groups of one kind of units in a network of MODELS.

    Raises:
        InputError: as `groups_of` does.
    """
    structure = registered_structure(architecture, model, shape)
    return groups_of(model, structure=structure, kind=kind, method=method)


def groups_of(model: nn.Module, *, structure: Structure, kind: Kind, method: str) -> FoundGroups:
    """The groups of one kind of units in a network.

    Raises:
        InputError: if the network has no such units. It names the method and those that would work,
            or the layers that must keep their channels and why.
    """
    encoder_groups = attention.find_groups(model)
    if encoder_groups or kind != "channel":
        found = FoundGroups([group for group in encoder_groups if group.kind == kind], [])
    else:
        fixed = structure.fixed_layers(model)
        found = channels.find_groups(model, fixed, structure.example)

    if found.groups:
        return found
    if found.kept:
        reasons = "; ".join(kept.describe() for kept in found.kept)
        raise InputError(f"{method}: no channel of {structure.name} can be removed: {reasons}")

    kinds = {group.kind for group in encoder_groups}
    if not kinds and kind == "channel":
        outputs = name_list([name or "itself" for name in structure.outputs])
        raise InputError(
            f"{method}: {structure.name} has no {UNITS[kind]} to remove. Its outputs are made by "
            f"{outputs}, and nothing else has channels that can go alone; "
            "methods that zero weights would work, such as l1_unstructured"
        )
    methods = [name for name, other in METHODS.own.items() if other.kind in (kinds or {"channel"})]
    raise InputError(
        f"{method}: {structure.name} has no {UNITS[kind]} to remove; "
        f"these would work: {name_list(methods)} (prunelab list methods --fits)"
    )
