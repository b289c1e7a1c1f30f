"""How much accuracy a network loses if one layer, or all layers, lose a share of their units.

Units are the single weights of a layer, or the channels, heads or hidden units of coupled layers.
The smallest by L1 norm go, and nothing is trained afterwards.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from prunelab.artifacts.records import ALL
from prunelab.models.catalogue import Shape
from prunelab.models.networks import prunable_weights
from prunelab.models.structure import Structure, registered_structure
from prunelab.pruning import criteria
from prunelab.pruning.criteria import CalibrationData
from prunelab.pruning.methods import Kind
from prunelab.pruning.prune import groups_of
from prunelab.pruning.structured import channels
from prunelab.pruning.structured.groups import Candidate, Group, unit_scores
from prunelab.pruning.unstructured.ranking import count_kept, keep_largest
from prunelab.runtime.device import generator
from prunelab.training import masking

UnitKind = Literal["weight"] | Kind
Row = dict[str, Any]

# The method that removes each kind of units in the way measured here. A network has channels, or
# heads and hidden units.
METHODS: dict[UnitKind, str] = {
    "weight": "l1_unstructured_layerwise",
    "channel": "l1_channel",
    "head": "l1_head",
    "hidden": "l1_hidden",
}


@dataclass(frozen=True)
class PrunableUnit:
    """What one curve is about: the weights of a layer, or the units of coupled layers.

    `name` is its name in `prune.layer_ratios`, and `layers` are the layers that produce its units.
    It has `units` units and `weights` weights. `zero_all_but(copy, kept)` zeroes the units with the
    smallest L1 norm in a copy of the network, so that `kept` of them stay.
    """

    name: str
    layers: tuple[str, ...]
    units: int
    weights: int
    zero_all_but: Callable[[nn.Module, int], None]


def prunable_units(
    model: nn.Module, architecture: str, kind: UnitKind, shape: Shape
) -> list[PrunableUnit]:
    """What a network of MODELS can lose of one kind of units, as `units_of` returns it.

    Raises:
        InputError: if the network has no such units.
    """
    return units_of(model, registered_structure(architecture, model, shape), kind)


def units_of(model: nn.Module, structure: Structure, kind: UnitKind) -> list[PrunableUnit]:
    """What a network can lose of one kind of units, from its first layer on.

    Units are zeroed, norms included, instead of removed. The network computes the same, and need
    not be traced again for every point of a curve.

    Raises:
        InputError: if the network has no such units.
    """
    no_data = CalibrationData(generator("sensitivity"), list)
    saliency = criteria.l1(model, no_data)
    if kind == "weight":
        return [_weights_of_layer(name, saliency[name]) for name in prunable_weights(model)]

    groups = groups_of(model, structure=structure, kind=kind, method=METHODS[kind]).groups

    # Groups come in the order of a trace, which often begins at the last layer.
    depth = {name: index for index, (name, _) in enumerate(model.named_modules())}
    groups.sort(key=lambda group: min(depth[layer] for layer in group.layers))
    return [_units_of_group(group, unit_scores(group, saliency)) for group in groups]


def _weights_of_layer(tensor_name: str, scores: Tensor) -> PrunableUnit:
    count = scores.numel()

    def zero_all_but(copy: nn.Module, kept: int) -> None:
        mask = keep_largest(scores.double().reshape(1, -1), count - kept)
        masking.apply(copy, {tensor_name: mask.view(scores.shape)})

    layer = tensor_name.rpartition(".")[0]
    return PrunableUnit(layer, (layer,), count, count, zero_all_but)


def _units_of_group(group: Group, scores: Tensor) -> PrunableUnit:
    candidate = Candidate(group, group.count, scores, layer_ratio=None, round_to=1)
    weights = sum(member.weight.numel() for member in group.filters)

    def zero_all_but(copy: nn.Module, kept: int) -> None:
        channels.zero_units(copy, [group], [candidate.units_to_drop(kept)])

    return PrunableUnit(group.name, group.layers, group.count, weights, zero_all_but)


def measurable(parts: Sequence[PrunableUnit], ratios: Sequence[float]) -> bool:
    """Whether any of the ratios removes some, but not all, of the units of any part."""
    return any(units_kept(part.units, ratio) for part in parts for ratio in ratios)


def units_kept(units: int, ratio: float) -> int | None:
    """How many of so many units stay at a ratio, or None if it would remove none or all of them."""
    kept = count_kept(units, ratio)
    return kept if 0 < kept < units else None


def load_pruned(
    copy: nn.Module, model: nn.Module, parts: Sequence[PrunableUnit], kept: Mapping[str, int]
) -> None:
    """Make `copy` what `model` is with `kept[name]` units of each part named, and all others.

    `copy` is a copy of the network, which is used again and again: loading the weights is much
    faster than copying the network.
    """
    copy.load_state_dict(model.state_dict())
    for part in parts:
        if part.name in kept:
            part.zero_all_but(copy, kept[part.name])


def curves(
    model: nn.Module,
    parts: Sequence[PrunableUnit],
    ratios: Sequence[float],
    accuracy: Callable[[nn.Module], float],
    done: Callable[[], object] = lambda: None,
) -> Iterator[Row]:
    """One row for every part and ratio: each part alone, then all parts together, named `ALL`.

    `model` is the dense network of one seed, which does not change. `accuracy(model)` measures a
    network, 0 to 1. `done()` is called after every curve.

    A ratio that would remove none or all of the units of a part leaves that part whole; there is no
    row if nothing would be removed. `removed` is the share of units really removed.
    """
    copy = deepcopy(model)
    pruned_together = {part.name: [part] for part in parts} | {ALL: parts}
    for name, pruned_parts in pruned_together.items():
        for ratio in ratios:
            kept = _units_kept_of_each(pruned_parts, ratio)
            if not kept:
                continue
            load_pruned(copy, model, pruned_parts, kept)
            yield _describe(name, pruned_parts, kept) | {"ratio": ratio, "accuracy": accuracy(copy)}
        done()


def mean_curves(rows_by_seed: Sequence[Sequence[Row]]) -> list[Row]:
    """The rows of the networks of several seeds, which differ in their accuracies alone, as one.

    `accuracies` are those of the seeds, and `accuracy` is their mean.
    """
    means = []
    for rows in zip(*rows_by_seed, strict=True):
        accuracies = [row["accuracy"] for row in rows]
        mean = math.fsum(accuracies) / len(accuracies)  # `sum` depends on the version of Python
        means.append(rows[0] | {"accuracy": mean, "accuracies": accuracies})
    return means


def _units_kept_of_each(parts: Sequence[PrunableUnit], ratio: float) -> dict[str, int]:
    """How many units stay of every part that loses some, but not all, of them."""
    kept: dict[str, int] = {}
    for part in parts:
        count = units_kept(part.units, ratio)
        if count is not None:
            kept[part.name] = count
    return kept


def _describe(name: str, parts: Sequence[PrunableUnit], kept: Mapping[str, int]) -> Row:
    units = sum(part.units for part in parts)
    removed = sum(part.units - kept.get(part.name, part.units) for part in parts)
    layers = name
    if name != ALL:
        layers = ", ".join(parts[0].layers)

    return {
        "layer": name,
        "layers": layers,
        "units": units,
        "weights": sum(part.weights for part in parts),
        "removed": removed / units,
    }
