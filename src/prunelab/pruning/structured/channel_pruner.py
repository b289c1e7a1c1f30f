"""Cut a network by removing units of its groups (channels, heads, hidden units) for real."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from prunelab.config.params import PruneSpec
from prunelab.core.errors import InputError
from prunelab.pruning.pruner import BUDGET_TOLERANCE, PruneResult, scheduled_ratio
from prunelab.pruning.structured import channels, groups
from prunelab.pruning.structured.budget import Costs, solve
from prunelab.pruning.structured.groups import Group, LayerWidth
from prunelab.pruning.structured.penalties import SelectedUnits
from prunelab.pruning.unstructured.ranking import Saliency


class StructuredPruner:
    """Cuts by removing units of groups (channels, heads, hidden units)."""

    def __init__(
        self,
        model: nn.Module,
        spec: PruneSpec,
        scope: groups.Scope,
        *,
        find: Callable[[nn.Module], list[Group]],
        example: Tensor,
        known: list[Group] | None = None,
    ):
        self._model, self._spec, self._scope = model, spec, scope
        self._find, self._example = find, example
        self._groups = find(model) if known is None else known
        self.full = {group.name: group.count for group in self._groups}
        self._dense = (
            self._costs().total(self._groups, list(self.full.values()))
            if spec.budget != "native"
            else 0
        )
        self._history: list[list[list[int]]] = []

    def _costs(self) -> Costs:
        return Costs.of(self._model, self._example, macs=self._spec.budget == "macs")

    def plan(self, saliency: Saliency, ratio: float) -> tuple[list[groups.Candidate], list[int]]:
        """The groups that may lose units, and the widths they get; nothing is touched."""
        found = groups.candidates(
            self._groups, saliency, self._spec, self.full, partial(self._on_the_way, ratio)
        )
        if self._spec.budget == "native" or ratio == 0:
            return found, self._scope(found, ratio, self._spec.floor)
        costs, members = self._costs(), [candidate.group for candidate in found]
        return found, solve(
            lambda native: self._scope(found, native, self._spec.floor),
            kept=lambda widths: costs.total(members, widths) / self._dense,
            target=1 - ratio,
        )

    def _on_the_way(self, ratio: float, own: float) -> float:
        return scheduled_ratio(own, ratio, self._spec.ratio)

    def check_feasible(
        self,
        found: Sequence[groups.Candidate],
        widths: Sequence[int],
        ratio: float,
        *,
        exactly: bool = True,
    ) -> None:
        """Raise InputError if widths miss the ratio by more than rounding explains; `exactly`: also if more would go."""
        if problem := self._why_not(found, widths, ratio, exactly):
            raise InputError(f"{self._spec.method} at ratio {ratio} {problem}")

    def prune_to(self, saliency: Saliency, step_ratio: float) -> PruneResult:
        found, widths = self.plan(saliency, step_ratio)
        # On the way to the final ratio, rounding may well leave nothing to do.
        if step_ratio >= self._spec.ratio:
            self.check_feasible(found, widths, step_ratio)
        chosen = {c.group.name: c.drop(width) for c, width in zip(found, widths, strict=True)}
        dropped = [chosen.get(group.name, []) for group in self._groups]
        self._model.cpu()  # where the network was traced
        self._execute(self._model, self._groups, dropped)
        self._history.append(dropped)
        layers = {
            group.name: tuple(member.layer for member in group.filters) for group in self._groups
        }
        self._groups = self._find(self._model)
        left = {group.name: group.count for group in self._groups}
        for candidate, width in zip(found, widths, strict=True):
            assert left[candidate.group.name] == width, (
                f"{candidate.group.name} is not {width} wide"
            )
        judged = [candidate.group.name for candidate in found]
        measured = [LayerWidth(layers[name], self.full[name], left[name]) for name in judged]
        return PruneResult({}, measured, self._removed(found, widths))

    def selected_units(self, saliency: Saliency, step_ratio: float) -> SelectedUnits:
        found, widths = self.plan(saliency, step_ratio)
        return [
            (candidate.group, candidate.drop(width))
            for candidate, width in zip(found, widths, strict=True)
        ]

    def zero_units(self, saliency: Saliency, step_ratio: float) -> None:
        # The weights alone: with its norm's scale and shift gone as well, a unit could never learn again.
        with torch.no_grad():
            for group, units in self.selected_units(saliency, step_ratio):
                for member in group.filters:
                    member.weight[member.chosen(units).to(member.weight.device)] = 0

    def load_weights(self, state: Mapping[str, Tensor], fresh: Callable[[], nn.Module]) -> None:
        # The other network goes through the same cuts, after which its tensors have our shapes.
        other = fresh()
        other.load_state_dict(state)
        for dropped in self._history:
            self._execute(other, self._find(other), dropped)
        self._model.load_state_dict(other.state_dict())

    def _execute(
        self, model: nn.Module, found: Sequence[Group], dropped: Sequence[list[int]]
    ) -> None:
        channels.remove(model, found, dropped, self._example)

    def _removed(self, found: Sequence[groups.Candidate], widths: Sequence[int]) -> float:
        """The share removed of what the budget names, since the dense network."""
        if self._spec.budget != "native":
            left = self._costs().total(self._groups, [group.count for group in self._groups])
            return 1 - left / self._dense
        free = [(c.full, width) for c, width in zip(found, widths, strict=True) if c.own is None]
        return 1 - sum(width for _, width in free) / sum(full for full, _ in free) if free else 0.0

    def _why_not(
        self, found: Sequence[groups.Candidate], widths: Sequence[int], ratio: float, exactly: bool
    ) -> str | None:
        if not found:
            return "cannot apply: there is nothing to remove"
        if ratio == 0:
            return None
        free = [(c, width) for c, width in zip(found, widths, strict=True) if c.own is None]
        if not free:
            return "cannot apply: prune.protect and prune.layer_ratios leave no layer to it"
        widest = max((c for c, _ in free), key=lambda c: c.full)
        if (
            widest.round_to > widest.full
        ):  # narrower layers keep their width; if all do so, nothing goes
            return (
                f"cannot be met: prune.round_to = {self._spec.round_to} is more than the {widest.full} channels of "
                f"{widest.group.name}, the widest layer, so nothing could go; valid: 1 to that number"
            )
        if self._spec.budget != "native":
            costs = self._costs()
            achieved = 1 - costs.total([c.group for c in found], widths) / self._dense
            if abs(achieved - ratio) <= BUDGET_TOLERANCE or (achieved > ratio and not exactly):
                return None
            return (
                f"of {self._spec.budget} cannot be met: the nearest that can be removed is {achieved:.4f} (every layer "
                f"keeps prune.round_to = {self._spec.round_to} channels, or the share prune.floor = {self._spec.floor})"
            )
        total = sum(c.full for c, _ in free)
        removed = 1 - sum(width for _, width in free) / total
        # Half a step of rounding in every layer; all of one that is narrower than a step.
        allowed = sum(c.round_to / 2 if c.round_to <= c.full else c.full for c, _ in free) / total
        if removed > 0 and abs(removed - ratio) <= allowed + 1e-9:
            return None
        worst, kept = max(free, key=lambda pair: abs(pair[1] / pair[0].full - (1 - ratio)))
        return (
            f"cannot be met: {removed:.4f} of the {groups.UNITS[worst.group.kind]} would go, and rounding explains no "
            f"more than {allowed:.4f}; {worst.group.name}, say, keeps {kept} of {worst.full}, since a width is a "
            f"multiple of prune.round_to = {self._spec.round_to} and at least that; try a smaller round_to or another "
            "ratio"
        )
