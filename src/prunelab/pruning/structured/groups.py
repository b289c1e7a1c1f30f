"""Groups of coupled layers: how salient their units are, and how many each keeps at a ratio.

SCOPES has the rules for the latter, by name.

Layers are coupled if they must lose the same units (channels, heads, hidden units) together. A
residual addition couples the convolutions before it: all of them keep the same channels. Such a
set is also called a dependency group (Fang et al. 2023, DepGraph).

`channels.py` and `attention.py` find the groups of a network. Nothing here changes a network.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

import torch
from torch import Tensor, nn

from prunelab.config.params import Prune
from prunelab.models.attention import joint_name
from prunelab.models.frozen import within
from prunelab.models.resize import CONVOLUTIONS
from prunelab.pruning.unstructured.ranking import Saliency

MAX_NAMED = 3  # layers that one reason names
PRODUCERS = (*CONVOLUTIONS, nn.Linear, nn.MultiheadAttention)  # their weights make units


@dataclass(frozen=True)
class Member:
    """One layer's part in a group.

    `indices` are the positions of the group's units among the layer's outputs (if `loses_outputs`)
    or inputs. `unit_ids` gives the unit, 0 to count - 1, that each of `indices` belongs to: a head
    has several indices in a layer, and so has a channel that is flattened before a linear layer.
    """

    layer: str
    module: nn.Module
    loses_outputs: bool
    indices: Tensor
    unit_ids: Tensor

    @property
    def weight(self) -> Tensor:
        weight = getattr(self.module, joint_name(self.module))
        assert isinstance(weight, Tensor)
        return weight

    @property
    def weight_name(self) -> str:
        """The weight's name in the network."""
        return f"{self.layer}.{joint_name(self.module)}"

    def within(self, modules: Mapping[str, nn.Module]) -> "Member":
        """The same part of a copy of the network, whose modules are given by name."""
        return replace(self, module=modules[self.layer])

    def without(self, units: Sequence[int], lost: Tensor, count: int) -> "Member":
        """What is left of the part once `units`, of `count`, are gone.

        `lost` are all indices that this side of the layer loses, in ascending order.
        """
        stays = torch.ones(count, dtype=torch.bool)
        stays[torch.tensor(units, dtype=torch.int64)] = False
        new_units = stays.cumsum(0) - 1

        kept = stays[self.unit_ids]
        indices = self.indices[kept]
        indices = indices - torch.searchsorted(lost, indices)
        return replace(self, indices=indices, unit_ids=new_units[self.unit_ids[kept]])

    def indices_of(self, units: Sequence[int]) -> Tensor:
        """The layer's indices that belong to the given units."""
        return self.indices[torch.isin(self.unit_ids, torch.tensor(units, dtype=torch.int64))]


@dataclass(frozen=True)
class Group:
    """Coupled layers and their `count` units. `kind` is a key of `methods.KINDS`."""

    name: str
    kind: str
    count: int
    members: list[Member]

    @property
    def filters(self) -> list[Member]:
        """The members whose weights produce the units: layers with weights that lose outputs."""
        return [
            member
            for member in self.members
            if member.loses_outputs and isinstance(member.module, PRODUCERS)
        ]

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers that produce the units."""
        return tuple(member.layer for member in self.filters)


@dataclass(frozen=True)
class KeptLayers:
    """Coupled layers whose channels, or some of them, cannot go, and why."""

    layers: tuple[str, ...]
    reason: str

    def describe(self) -> str:
        """The layers, or the first and the number of many, and the reason."""
        layers = ", ".join(self.layers[:MAX_NAMED])
        if len(self.layers) > MAX_NAMED:
            layers += f" and {len(self.layers) - MAX_NAMED} more"
        return f"{layers} ({self.reason})"


@dataclass(frozen=True)
class FoundGroups:
    """The groups of a network, and the layers that must keep their units, with the reasons."""

    groups: list[Group]
    kept: list[KeptLayers]


@dataclass(frozen=True)
class LayerWidth:
    """How many units coupled layers had in the dense network and how many they have now."""

    layers: tuple[str, ...]
    before: int
    after: int


def unit_scores(group: Group, saliency: Saliency) -> Tensor:
    """The saliency of every unit of a group, float64 [count].

    A unit's saliency is the sum over all weights that produce it, in all coupled layers.
    """
    scores = torch.zeros(group.count, dtype=torch.float64)
    for member in group.filters:
        weight_scores = saliency.get(member.weight_name)
        if weight_scores is not None:
            output_scores = weight_scores.double().flatten(1).sum(1)
            scores.index_add_(0, member.unit_ids, output_scores[member.indices])

    return scores


def find_layer_ratio(layers: Sequence[str], settings: Prune) -> float | None:
    """The ratio that parameters give to coupled layers of these names, or None if they give none.

    A group is protected, which is a ratio of 0, as soon as one of its layers is. If several
    patterns of `layer_ratios` match, the last one counts.
    """

    def matches(pattern: str) -> bool:
        return any(within(layer, pattern) for layer in layers)

    if any(matches(pattern) for pattern in settings.protect):
        return 0.0

    layer_ratio = None
    for pattern, ratio in settings.layer_ratios.items():
        if matches(pattern):
            layer_ratio = ratio
    return layer_ratio


def target_width(count: int, ratio: float, round_to: int) -> int:
    """How many of `count` units stay at a ratio, 0 to below 1.

    It is the multiple of `round_to` that is nearest to (1 - ratio) x count, but at least
    `round_to` and at most `count`. A ratio of 0 keeps every unit, whatever the rounding.
    """
    if ratio == 0:
        return count

    nearest = round((1 - ratio) * count / round_to) * round_to
    return min(count, max(nearest, round_to))


@dataclass(frozen=True)
class Candidate:
    """A group that may lose units, with what decides how many it keeps and which.

    `dense_count` is the number of units in the dense network; `group.count` of them are left, and
    `scores` [group.count] is their saliency. `layer_ratio` is the group's own ratio, or None if it
    follows the ratio of the network. Widths are multiples of `round_to`.
    """

    group: Group
    dense_count: int
    scores: Tensor
    layer_ratio: float | None
    round_to: int

    def width(self, ratio: float) -> int:
        """How many units stay if the network loses this share of its dense units."""
        if self.layer_ratio is not None:
            ratio = self.layer_ratio
        return min(self.group.count, target_width(self.dense_count, ratio, self.round_to))

    def units_to_drop(self, width: int) -> list[int]:
        """The least salient units, in ascending order, so that `width` units stay."""
        least_salient = self.scores.argsort(stable=True)[: self.group.count - width]
        return least_salient.sort().values.tolist()


def find_candidates(
    groups: Sequence[Group],
    saliency: Saliency,
    settings: Prune,
    dense_counts: Mapping[str, int],
    scale: Callable[[float], float] = lambda layer_ratio: layer_ratio,
) -> list[Candidate]:
    """The groups that the criterion scores; groups without any saliency are left alone.

    `dense_counts` gives the units in the dense network by group name, if units were removed before.
    `scale` turns a group's own final ratio into its ratio at this step of a schedule.
    """
    candidates = []
    for group in groups:
        if not any(member.weight_name in saliency for member in group.filters):
            continue

        layer_ratio = find_layer_ratio(group.layers, settings)
        if layer_ratio is not None:
            layer_ratio = scale(layer_ratio)

        round_to = settings.round_to
        if group.kind == "head":
            round_to = 1

        dense_count = dense_counts.get(group.name, group.count)
        scores = unit_scores(group, saliency)
        candidates.append(Candidate(group, dense_count, scores, layer_ratio, round_to))
    return candidates


# Decides how many units every candidate keeps: scope(candidates, ratio, floor) -> widths.
Scope = Callable[[Sequence[Candidate], float, float], list[int]]


def uniform(candidates: Sequence[Candidate], ratio: float, floor: float) -> list[int]:
    """Every group keeps the share 1 - ratio of its units. `floor` has no effect."""
    return [candidate.width(ratio) for candidate in candidates]


def ranked_together(candidates: Sequence[Candidate], ratio: float, floor: float) -> list[int]:
    """The units of all groups compete by saliency; the least salient share `ratio` goes.

    Every group keeps at least the share `floor` of its units. This is for criteria whose values
    are comparable across layers, such as scales of norms or effects on the loss.
    """
    return _rank_globally(candidates, ratio, floor, lambda candidate: candidate.scores)


def ranked_relatively(candidates: Sequence[Candidate], ratio: float, floor: float) -> list[int]:
    """As `ranked_together`, but a unit's saliency is divided by the mean saliency of its group.

    This is for sums over weights: without it, units with many weights would always outrank units
    with few.
    """
    return _rank_globally(candidates, ratio, floor, _scores_relative_to_mean)


def _rank_globally(
    candidates: Sequence[Candidate],
    ratio: float,
    floor: float,
    scores_of: Callable[[Candidate], Tensor],
) -> list[int]:
    scores: list[float] = []
    names: list[str] = []
    dense_units, units_left = 0, 0
    for candidate in candidates:
        if candidate.layer_ratio is not None:
            continue  # does not compete

        # Only units above the floor of their group compete. Within a group they go in the order
        # of `Candidate.units_to_drop`.
        above_floor = max(0, candidate.group.count - _least_width(candidate, floor))
        competing = scores_of(candidate).sort().values[:above_floor].tolist()
        scores += competing
        names += [candidate.group.name] * len(competing)
        dense_units += candidate.dense_count
        units_left += candidate.group.count

    # The ratio is a share of the dense units, so units that earlier steps removed count too.
    removed_before = dense_units - units_left
    to_drop = max(0, round(ratio * dense_units) - removed_before)
    ascending = sorted(range(len(scores)), key=lambda index: scores[index])
    drops = Counter(names[index] for index in ascending[:to_drop])

    widths = []
    for candidate in candidates:
        if candidate.layer_ratio is None:
            widths.append(_rounded_width(candidate, drops[candidate.group.name]))
        else:
            widths.append(candidate.width(ratio))
    return widths


def _least_width(candidate: Candidate, floor: float) -> int:
    """The smallest multiple of `round_to` that keeps at least the share `floor`, and one unit."""
    least_units = max(1.0, floor * candidate.dense_count)
    multiple = ceil(least_units / candidate.round_to) * candidate.round_to
    return min(candidate.dense_count, multiple)


def _scores_relative_to_mean(candidate: Candidate) -> Tensor:
    mean = candidate.scores.mean()
    if mean > 0:
        return candidate.scores / mean
    return candidate.scores


def _rounded_width(candidate: Candidate, dropped: int) -> int:
    count, round_to = candidate.group.count, candidate.round_to
    if dropped == 0:
        return count

    nearest = round((count - dropped) / round_to) * round_to
    return min(count, max(round_to, nearest))


SCOPES: dict[str, Scope] = {
    "uniform": uniform,
    "ranked_together": ranked_together,
    "ranked_relatively": ranked_relatively,
}
