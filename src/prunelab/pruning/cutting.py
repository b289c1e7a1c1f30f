"""The two ways to cut a network: masks over weights, and groups of units removed for real."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from prunelab.errors import Refused
from prunelab.measuring.cost import macs, parameters, positions
from prunelab.models.catalogue import prunable_weights
from prunelab.params import PruneSpec
from prunelab.pruning import channels, groups, masks
from prunelab.pruning.granularity import Granularity
from prunelab.pruning.groups import Group, Width
from prunelab.pruning.masks import Masks, Saliency
from prunelab.pruning.penalties import Doomed

MISS = 0.01  # of the dense network's cost: how far from its budget a cut may end


@dataclass
class Pruned:
    """What pruning did: masks (for mask methods), widths (for the others), the ratio achieved, and what it took.

    `rounds` has a row for every cut of a schedule with several; `train_macs` is what training in between cost.
    """

    masks: Masks
    widths: list[Width]
    ratio_achieved: float
    rounds: list[dict[str, float]] = field(default_factory=list)
    train_macs: int = 0

    @property
    def empty_layers(self) -> list[str]:
        """Layers without a single weight left: possible under a global threshold, and worth knowing."""
        return [name for name, mask in self.masks.items() if not mask.any()]

    def describe(self) -> str:
        """One line for the log."""
        text = f"ratio {self.ratio_achieved:.4f} achieved"
        if self.widths:
            text += ": " + ", ".join(f"{width.layers[0]} {width.before} to {width.after}" for width in self.widths)
        if self.empty_layers:
            text += f"; nothing is left of {', '.join(self.empty_layers)}"
        return text


class Cutter(Protocol):
    """Cuts one network. Ratios are always of the dense network, so cuts at rising ratios add up."""

    def cut(self, saliency: Saliency, ratio: float) -> Pruned:
        """Take out what matters least, for good."""

    def silence(self, saliency: Saliency, ratio: float) -> None:
        """Zero what a cut would take out, and leave it free to return."""

    def doomed(self, saliency: Saliency, ratio: float) -> Doomed:
        """What a cut would take out now, group by group; mask methods have none."""

    def take_over(self, state: Mapping[str, Tensor], fresh: Callable[[], nn.Module]) -> None:
        """Go on with a dense network's weights; what is cut stays cut. `fresh` builds such a network."""


class MaskCutter:
    """Cuts by masks over weights, by one granularity in one scope."""

    def __init__(
        self,
        model: nn.Module,
        spec: PruneSpec,
        granularity: Granularity,
        scope: masks.Scope,
        *,
        whole: Sequence[str],
        example: Tensor,
    ):
        self._model, self._spec, self._granularity, self._scope = model, spec, granularity, scope
        self.masks: Masks = {}
        self._own = own_ratios(model, spec, whole=whole)
        self._total = parameters(model) if spec.budget == "params" else 0
        self._uses = None
        if spec.budget == "macs":
            self._total, self._uses = macs(model, tuple(example.shape[1:])), positions(model, example)

    def choose(self, saliency: Saliency, ratio: float) -> Masks:
        """The masks at a ratio of what the budget names; what is cut already stays cut."""
        saliency = {
            name: score.masked_fill(~self.masks[name], -torch.inf) if name in self.masks else score
            for name, score in saliency.items()
        }

        def chosen(native: float) -> Masks:
            return masks.choose(saliency, self._granularity, self._scope, native, self._spec, self._own)

        if self._spec.budget == "native" or ratio == 0:
            return chosen(ratio)
        native = bisect(lambda native: self.removed(chosen(native)), ratio)
        return chosen(native)

    def removed(self, kept: Masks) -> float:
        """The share removed of what the budget names."""
        dropped = {name: mask.numel() - int(mask.sum()) for name, mask in kept.items()}
        if self._spec.budget == "native":
            return masks.removed_share({name: mask for name, mask in kept.items() if name not in self._own})
        if self._uses is not None:
            dropped = {name: count * self._uses[name.rpartition(".")[0]] for name, count in dropped.items()}
        return sum(dropped.values()) / self._total

    def cut(self, saliency: Saliency, ratio: float) -> Pruned:
        kept = self.choose(saliency, ratio)
        if kept and not any(mask.any() for mask in kept.values()):
            total = sum(mask.numel() for mask in kept.values())
            raise Refused(f"{self._spec.method} at ratio {ratio} leaves none of the {total} weights")
        achieved = self.removed(kept)
        if self._spec.budget != "native" and abs(achieved - ratio) > MISS:
            raise Refused(
                f"{self._spec.method} at ratio {ratio} of {self._spec.budget} cannot be met: "
                f"the nearest that can be removed is {achieved:.4f}"
            )
        masks.apply(self._model, kept)
        masks.verify(self._model, kept)
        self.masks = kept
        return Pruned(kept, [], achieved)

    def doomed(self, saliency: Saliency, ratio: float) -> Doomed:
        return []

    def silence(self, saliency: Saliency, ratio: float) -> None:
        masks.apply(self._model, self.choose(saliency, ratio))

    def take_over(self, state: Mapping[str, Tensor], fresh: Callable[[], nn.Module]) -> None:
        self._model.load_state_dict(state)
        masks.apply(self._model, self.masks)


def bisect(removed: Callable[[float], float], target: float) -> float:
    """The setting, 0 to below 1, at which the rising function `removed` comes nearest to `target`.

    Raises:
        Refused: by `removed`, where no setting that it accepts comes anywhere near.
    """

    def distance(setting: float) -> float:
        try:
            return removed(setting) - target
        except Refused:  # so little that nothing goes, or so much that nothing stays
            return -target if setting < 0.5 else 1 - target

    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if distance(middle) < 0 else (low, middle)
    return min((low, high), key=lambda setting: abs(distance(setting)))


def own_ratios(model: nn.Module, spec: PruneSpec, *, whole: Sequence[str]) -> dict[str, float]:
    """The ratios of tensors that have one of their own; layers named in `whole` stay whole."""
    found = {name: groups.own_ratio([name.rpartition(".")[0]], spec) for name in prunable_weights(model)}
    own = {name: ratio for name, ratio in found.items() if ratio is not None}
    return own | {f"{layer}.weight": 0.0 for layer in whole}


class GroupCutter:
    """Cuts by removing units of groups (channels, heads, hidden units)."""

    def __init__(
        self,
        model: nn.Module,
        spec: PruneSpec,
        scope: groups.Scope,
        *,
        find: Callable[[nn.Module], list[Group]],
        mend: Callable[[nn.Module], None],
        example: Tensor,
        known: list[Group] | None = None,
    ):
        self._model, self._spec, self._scope = model, spec, scope
        self._find, self._mend, self._example = find, mend, example
        self._groups = find(model) if known is None else known
        self.full = {group.name: group.count for group in self._groups}
        self._dense = self._costs().total(self._groups, list(self.full.values())) if spec.budget != "native" else 0
        self._history: list[list[list[int]]] = []

    def _costs(self) -> groups.Costs:
        return groups.Costs(self._model, positions(self._model, self._example), macs=self._spec.budget == "macs")

    def plan(self, saliency: Saliency, ratio: float) -> tuple[list[groups.Candidate], list[int]]:
        """The groups that may lose units, and the widths they get; nothing is touched."""
        found = groups.candidates(self._groups, saliency, self._spec, self.full)
        if self._spec.budget == "native" or ratio == 0:
            return found, self._scope(found, ratio, self._spec.floor)
        costs, members = self._costs(), [candidate.group for candidate in found]
        return found, groups.solve(
            found,
            self._scope,
            self._spec.floor,
            kept=lambda widths: costs.total(members, widths) / self._dense,
            target=1 - ratio,
        )

    def refuse(self, found: Sequence[groups.Candidate], widths: Sequence[int], ratio: float) -> None:
        """Raise Refused if widths miss the ratio by more than rounding explains."""
        if problem := self._why_not(found, widths, ratio):
            raise Refused(f"{self._spec.method} at ratio {ratio} {problem}")

    def cut(self, saliency: Saliency, ratio: float) -> Pruned:
        found, widths = self.plan(saliency, ratio)
        self.refuse(found, widths, ratio)
        chosen = {c.group.name: c.drop(width) for c, width in zip(found, widths, strict=True)}
        dropped = [chosen.get(group.name, []) for group in self._groups]
        self._model.cpu()  # where the network was traced
        self._execute(self._model, self._groups, dropped)
        self._history.append(dropped)
        layers = {group.name: tuple(member.layer for member in group.filters) for group in self._groups}
        self._groups = self._find(self._model)
        left = {group.name: group.count for group in self._groups}
        for candidate, width in zip(found, widths, strict=True):
            assert left[candidate.group.name] == width, f"{candidate.group.name} is not {width} wide"
        judged = [candidate.group.name for candidate in found]
        measured = [Width(layers[name], self.full[name], left[name]) for name in judged]
        return Pruned({}, measured, self._removed(found, widths))

    def doomed(self, saliency: Saliency, ratio: float) -> Doomed:
        found, widths = self.plan(saliency, ratio)
        return [(candidate.group, candidate.drop(width)) for candidate, width in zip(found, widths, strict=True)]

    def silence(self, saliency: Saliency, ratio: float) -> None:
        # The weights alone: with its norm's scale and shift gone as well, a unit could never learn again.
        with torch.no_grad():
            for group, units in self.doomed(saliency, ratio):
                for member in group.filters:
                    member.weight[member.chosen(units).to(member.weight.device)] = 0

    def take_over(self, state: Mapping[str, Tensor], fresh: Callable[[], nn.Module]) -> None:
        # The other network goes through the same cuts, after which its tensors have our shapes.
        other = fresh()
        other.load_state_dict(state)
        for dropped in self._history:
            self._execute(other, self._find(other), dropped)
        self._model.load_state_dict(other.state_dict())

    def _execute(self, model: nn.Module, found: Sequence[Group], dropped: Sequence[list[int]]) -> None:
        channels.remove(model, found, dropped, self._example, self._mend)

    def _removed(self, found: Sequence[groups.Candidate], widths: Sequence[int]) -> float:
        """The share removed of what the budget names, since the dense network."""
        if self._spec.budget != "native":
            left = groups.Costs(self._model, positions(self._model, self._example), macs=self._spec.budget == "macs")
            current = [group.count for group in self._groups]
            return 1 - left.total(self._groups, current) / self._dense
        free = [(c.full, width) for c, width in zip(found, widths, strict=True) if c.own is None]
        return 1 - sum(width for _, width in free) / max(1, sum(full for full, _ in free))

    def _why_not(self, found: Sequence[groups.Candidate], widths: Sequence[int], ratio: float) -> str | None:
        if not found:
            return "cannot apply: there is nothing to remove"
        if ratio == 0:
            return None
        free = [(c, width) for c, width in zip(found, widths, strict=True) if c.own is None]
        if not free:
            return "cannot apply: prune.protect and prune.layer_ratios leave no layer to it"
        narrowest = min((c for c, _ in free), key=lambda c: c.full)
        if narrowest.round_to > narrowest.full:
            return (
                f"cannot be met: prune.round_to = {self._spec.round_to} is more than the {narrowest.full} channels of "
                f"{narrowest.group.name}, which could then lose none; valid: 1 to that number"
            )
        if self._spec.budget != "native":
            costs = self._costs()
            achieved = 1 - costs.total([c.group for c in found], widths) / self._dense
            if abs(achieved - ratio) <= MISS:
                return None
            return (
                f"of {self._spec.budget} cannot be met: the nearest that can be removed is {achieved:.4f} (every layer "
                f"keeps prune.round_to = {self._spec.round_to} channels, or the share prune.floor = {self._spec.floor})"
            )
        total = sum(c.full for c, _ in free)
        removed = 1 - sum(width for _, width in free) / total
        allowed = sum(c.round_to for c, _ in free) / 2 / total  # half a step of rounding in every layer
        if removed > 0 and abs(removed - ratio) <= allowed + 1e-9:
            return None
        worst, kept = max(free, key=lambda pair: abs(pair[1] / pair[0].full - (1 - ratio)))
        return (
            f"cannot be met: {removed:.4f} of the {worst.group.kind}s would go, and rounding explains no more than "
            f"{allowed:.4f}; {worst.group.name}, say, keeps {kept} of {worst.full}, since a width is a multiple of "
            f"prune.round_to = {self._spec.round_to} and at least that; try a smaller round_to or another ratio"
        )
