"""Groups of layers that lose units (channels, heads, hidden units) together: rank and choose them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor, nn

from prunelab.config.params import Prune
from prunelab.models.frozen import within
from prunelab.pruning.unstructured.ranking import Saliency


@dataclass(frozen=True)
class Member:
    """One layer's part in a group: the `indices` of its outputs (or inputs), and the unit that each belongs to."""

    layer: str
    module: nn.Module
    outputs: bool
    indices: Tensor
    units: Tensor

    @property
    def weight(self) -> Tensor:
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        return weight

    def chosen(self, units: Sequence[int]) -> Tensor:
        """The layer's indices that belong to the given units."""
        return self.indices[torch.isin(self.units, torch.tensor(units, dtype=torch.int64))]


UNITS = {
    "channel": "channels",
    "head": "heads",
    "hidden": "hidden units",
}  # in plural, by the kind of a group


@dataclass(frozen=True)
class Group:
    """Layers that lose their units together; `remove` takes units out for real."""

    name: str
    kind: str  # of UNITS
    count: int
    members: list[Member]
    remove: Callable[[Sequence[int]], None]

    @property
    def filters(self) -> list[Member]:
        """The members whose weights make the units: convolutions and linear layers that lose outputs."""
        return [
            m for m in self.members if m.outputs and isinstance(m.module, nn.Conv2d | nn.Linear)
        ]


@dataclass(frozen=True)
class LayerWidth:
    """A set of layers that share their units: how many there were and how many stay."""

    layers: tuple[str, ...]
    before: int
    after: int


def scores(group: Group, saliency: Saliency) -> Tensor:
    """A group's units by the sum of the saliency of all weights that make them, float64 [count]."""
    total = torch.zeros(group.count, dtype=torch.float64)
    for member in group.filters:
        if (weights := saliency.get(f"{member.layer}.weight")) is not None:
            total.index_add_(0, member.units, weights.double().flatten(1).sum(1)[member.indices])
    return total


def judged(groups: Sequence[Group], saliency: Saliency) -> list[Group]:
    """The groups of which the criterion says anything; the others are left alone."""
    return [
        group
        for group in groups
        if any(f"{member.layer}.weight" in saliency for member in group.filters)
    ]


def own_ratio(names: Sequence[str], settings: Prune) -> float | None:
    """The ratio that parameters give to layers of these names, 0 for protected ones; None if they say nothing.

    A group is protected as soon as one of its layers is.
    """
    if any(within(name, pattern) for name in names for pattern in settings.protect):
        return 0.0
    own = [
        ratio
        for pattern, ratio in settings.layer_ratios.items()
        if any(within(name, pattern) for name in names)
    ]
    return own[-1] if own else None  # the last word counts, as in a list of rules


def target_width(channels: int, ratio: float, round_to: int) -> int:
    """How many of `channels` stay: the multiple of `round_to` nearest to the exact share, and never none."""
    if ratio == 0:  # nothing asked, nothing done, whatever the rounding
        return channels
    multiple = round((1 - ratio) * channels / round_to) * round_to
    return min(channels, max(multiple, round_to))


@dataclass(frozen=True)
class Candidate:
    """A group with what deciding its width needs: `full` units in the dense network, and how salient each left is."""

    group: Group
    full: int
    scores: Tensor
    own: float | None  # its own ratio, if it has one
    round_to: int

    def width(self, ratio: float) -> int:
        return min(
            self.group.count,
            target_width(self.full, ratio if self.own is None else self.own, self.round_to),
        )

    def drop(self, width: int) -> list[int]:
        """The least salient units, those beyond `width`."""
        return self.scores.argsort(stable=True)[: self.group.count - width].sort().values.tolist()


def candidates(
    groups: Sequence[Group],
    saliency: Saliency,
    settings: Prune,
    full: Mapping[str, int],
    scaled: Callable[[float], float] = lambda own: own,
) -> list[Candidate]:
    """Every group that may lose units; `full` gives the units that groups had in the dense network.

    `scaled` says how much of its own ratio a group loses at this cut.
    """
    found = []
    for group in judged(groups, saliency):
        own = own_ratio([member.layer for member in group.filters], settings)
        found.append(
            Candidate(
                group,
                full.get(group.name, group.count),
                scores(group, saliency),
                None if own is None else scaled(own),
                settings.round_to if group.kind != "head" else 1,
            )
        )
    return found


Scope = Callable[[Sequence[Candidate], float, float], list[int]]


def uniform(found: Sequence[Candidate], ratio: float, floor: float) -> list[int]:
    """Every group keeps the same share of its units."""
    return [candidate.width(ratio) for candidate in found]


def ranked_together(found: Sequence[Candidate], ratio: float, floor: float) -> list[int]:
    """All units ranked in one list by their saliency as it is; every group keeps at least the share `floor`.

    For criteria whose values compare across layers: scales of norms, effects on the loss.
    """
    return _ranked(found, ratio, floor, lambda candidate: candidate.scores)


def ranked_relatively(found: Sequence[Candidate], ratio: float, floor: float) -> list[int]:
    """As `ranked_together`, but a unit's saliency counts relative to the mean of its group.

    For sums over weights, by which wide filters would always beat narrow ones.
    """
    return _ranked(found, ratio, floor, _relative)


def _ranked(
    found: Sequence[Candidate], ratio: float, floor: float, ranks: Callable[[Candidate], Tensor]
) -> list[int]:
    free = [candidate for candidate in found if candidate.own is None]
    least = {
        id(c): min(c.full, ceil(max(1.0, floor * c.full) / c.round_to) * c.round_to) for c in free
    }
    # Only what is above its group's floor takes part; the order within a group is that of `Candidate.drop`.
    above = [
        (c, score)
        for c in free
        for score in ranks(c).sort().values[: max(0, c.group.count - least[id(c)])]
    ]
    to_drop = round(ratio * sum(c.full for c in free)) - sum(c.full - c.group.count for c in free)
    order = sorted(range(len(above)), key=lambda index: float(above[index][1]))[: max(0, to_drop)]
    dropped = {id(c): 0 for c in free}
    for index in order:
        dropped[id(above[index][0])] += 1
    return [
        candidate.width(ratio)
        if candidate.own is not None
        else _rounded(candidate, dropped[id(candidate)])
        for candidate in found
    ]


def _relative(candidate: Candidate) -> Tensor:
    mean = candidate.scores.mean()
    return candidate.scores / mean if mean > 0 else candidate.scores


def _rounded(candidate: Candidate, dropped: int) -> int:
    if dropped == 0:
        return candidate.group.count
    step = candidate.round_to
    return min(
        candidate.group.count, max(step, round((candidate.group.count - dropped) / step) * step)
    )
