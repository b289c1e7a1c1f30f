"""How much accuracy it costs to take a share of one layer away, or of all of them: without training, by magnitude."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from prunelab.artifacts.records import ALL
from prunelab.models.catalogue import Shape, prunable_weights
from prunelab.pruning import criteria
from prunelab.pruning.criteria import CalibrationData
from prunelab.pruning.methods import Kind
from prunelab.pruning.prune import find_groups
from prunelab.pruning.structured import channels, groups
from prunelab.pruning.structured.groups import Candidate, Group
from prunelab.pruning.unstructured.ranking import keep_largest, kept_of
from prunelab.runtime.device import generator
from prunelab.training import masking

UnitKind = Literal["weight"] | Kind
# What is taken away, and the method that takes it in the same way; a network has channels, or heads and hidden units.
METHODS: dict[UnitKind, str] = {
    "weight": "l1_unstructured_layerwise",
    "channel": "l1_channel",
    "head": "l1_head",
    "hidden": "l1_hidden",
}


@dataclass(frozen=True)
class PrunableUnit:
    """What one curve is about: the weights of a layer, or the units that some layers lose together.

    `name` is what `prune.layer_ratios` calls it, `layers` are those that make the units, and `weights` how many weights
    these have; `silence(copy, kept)` zeroes, in a copy of the network, all but so many `units`, smallest L1 norm first.
    """

    name: str
    layers: tuple[str, ...]
    units: int
    weights: int
    silence: Callable[[nn.Module, int], None]


def parts(model: nn.Module, architecture: str, what: UnitKind, shape: Shape) -> list[PrunableUnit]:
    """Every part of a network, from its first layer on.

    Units that a cut would remove are zeroed with their norms instead: the network computes the same, and need not be
    traced again for every point of a curve.

    Raises:
        InputError: if the network has no such units.
    """
    saliency = criteria.l1(
        model, CalibrationData(generator("sensitivity"), list)
    )  # which looks at no data
    if what == "weight":
        return [_layer(name, saliency[name]) for name in prunable_weights(model)]
    depth = {name: place for place, (name, _) in enumerate(model.named_modules())}
    found = find_groups(
        what, architecture, shape, METHODS[what], model
    )  # in the order of a trace, often backwards
    ordered = sorted(found, key=lambda group: min(depth[member.layer] for member in group.filters))
    return [_group(group, groups.scores(group, saliency)) for group in ordered]


def _layer(tensor: str, score: Tensor) -> PrunableUnit:
    def silence(copy: nn.Module, kept: int) -> None:
        mask = keep_largest(score.reshape(1, -1), score.numel() - kept)
        masking.apply(copy, {tensor: mask.view(score.shape)})

    layer = tensor.rpartition(".")[0]
    return PrunableUnit(layer, (layer,), score.numel(), score.numel(), silence)


def _group(group: Group, scores: Tensor) -> PrunableUnit:
    candidate = Candidate(group, group.count, scores, own=None, round_to=1)

    def silence(copy: nn.Module, kept: int) -> None:
        channels.silence(copy, [group], [candidate.drop(kept)])

    layers = tuple(member.layer for member in group.filters)
    return PrunableUnit(
        group.name,
        layers,
        group.count,
        sum(member.weight.numel() for member in group.filters),
        silence,
    )


def measurable(every: Sequence[PrunableUnit], ratios: Sequence[float]) -> bool:
    """Whether any of these ratios takes some of the units of any part, and not all."""
    return any(left(part.units, ratio) for part in every for ratio in ratios)


def left(units: int, ratio: float) -> int | None:
    """How many of so many units stay at a ratio; None where it would take none or all of them."""
    kept = kept_of(units, ratio)
    return kept if 0 < kept < units else None


def without(model: nn.Module, found: Sequence[PrunableUnit], kept: Mapping[str, int]) -> nn.Module:
    """A copy of a network that keeps so many units of the parts named, and all of the others."""
    copy = deepcopy(model)
    for part in found:
        if part.name in kept:
            part.silence(copy, kept[part.name])
    return copy


def curves(
    networks: Sequence[tuple[nn.Module, Sequence[PrunableUnit]]],
    ratios: Sequence[float],
    accuracy: Callable[[nn.Module], float],
    done: Callable[[], None] = lambda: None,
) -> Iterator[dict[str, Any]]:
    """One row for every part and ratio, each part by itself, then for all parts together, named `ALL`.

    `networks` are the dense networks of several seeds, which stay as they are, each with its parts; `accuracy` measures
    one, 0 to 1, and `done` hears of every finished curve. A ratio that would take none or all of the units of a part
    leaves that part alone, and has no row where it is the only one; `removed` is the share of units that really went.
    """
    _, every = networks[0]
    for chosen in [*([part] for part in every), every]:
        for ratio in ratios:
            kept = {part.name: count for part in chosen if (count := left(part.units, ratio))}
            if kept:
                measured = [accuracy(without(model, found, kept)) for model, found in networks]
                yield _about(ALL if chosen is every else chosen[0].name, chosen, kept) | {
                    "ratio": ratio,
                    "accuracy": sum(measured) / len(measured),
                    "accuracies": measured,
                }
        done()


def _about(name: str, chosen: Sequence[PrunableUnit], kept: Mapping[str, int]) -> dict[str, Any]:
    units = sum(part.units for part in chosen)
    return {
        "layer": name,
        "layers": name if name == ALL else ", ".join(chosen[0].layers),
        "units": units,
        "weights": sum(part.weights for part in chosen),
        "removed": sum(part.units - kept.get(part.name, part.units) for part in chosen) / units,
    }
