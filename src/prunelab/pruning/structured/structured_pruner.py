"""StructuredPruner removes the units of groups (channels, heads, hidden units) from a network."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunelab.config.params import PruneSpec
from prunelab.core.errors import InputError
from prunelab.core.plurals import UNITS
from prunelab.pruning.pruner import BUDGET_TOLERANCE, PruneResult, scheduled_ratio
from prunelab.pruning.structured import channels
from prunelab.pruning.structured.budget import Costs, solve
from prunelab.pruning.structured.groups import (
    Candidate,
    FoundGroups,
    Group,
    LayerWidth,
    Scope,
    find_candidates,
    uniform,
)
from prunelab.pruning.structured.penalties import SelectedUnits
from prunelab.pruning.unstructured.ranking import Saliency, check_scores


@dataclass(frozen=True)
class Plan:
    """The groups that may lose units, and the width that each of them gets."""

    candidates: Sequence[Candidate]
    widths: Sequence[int]

    def __iter__(self) -> Iterator[tuple[Candidate, int]]:
        return zip(self.candidates, self.widths, strict=True)

    @property
    def groups(self) -> list[Group]:
        return [candidate.group for candidate in self.candidates]

    @property
    def free(self) -> list[tuple[Candidate, int]]:
        """The groups that follow the ratio of the network, without a ratio of their own."""
        return [(candidate, width) for candidate, width in self if candidate.layer_ratio is None]

    @property
    def selected_units(self) -> list[tuple[Group, list[int]]]:
        """The units that go, group by group."""
        return [(candidate.group, candidate.units_to_drop(width)) for candidate, width in self]


class StructuredPruner:
    """Removes the least salient units of the groups that `find_groups(model)` returns.

    `scope` decides how many units every group keeps. `example_input` is one input of the network.
    `groups` are those of `model`, if they are known already: finding them is slow. With `nearest`,
    a budget may be missed by as much as the largest single unit costs.
    """

    def __init__(
        self,
        model: nn.Module,
        spec: PruneSpec,
        scope: Scope,
        *,
        find_groups: Callable[[nn.Module], FoundGroups],
        example_input: Tensor,
        groups: FoundGroups | None = None,
        nearest: bool = False,
    ) -> None:
        self._model, self._spec, self._scope = model, spec, scope
        self._find_groups, self._example_input = find_groups, example_input
        self._nearest = nearest

        found = find_groups(model) if groups is None else groups
        self._groups, self._kept = found.groups, found.kept
        self._dense_counts = _unit_counts(self._groups)
        self._known_costs: Costs | None = None
        self._dense_cost = 0
        if spec.budget != "native":
            self._dense_cost = self._costs().total(self._groups, list(self._dense_counts.values()))

        # For every step so far, the units that each group lost. `load_weights` repeats the steps.
        self._history: list[list[list[int]]] = []

    def check_feasible(self, saliency: Saliency) -> None:
        # The saliency may be a placeholder. Where layers are ranked together, the real one leads to
        # other widths, and so to a cost that meets the budget where this one undercuts it.
        widths_are_final = self._scope is uniform or self._spec.budget == "native"
        plan = self._plan(saliency, self._spec.ratio)
        self._check_plan(plan, self._spec.ratio, may_remove_more=not widths_are_final)

    def prune_to(self, saliency: Saliency, step_ratio: float) -> PruneResult:
        plan = self._plan(saliency, step_ratio)
        if step_ratio >= self._spec.ratio:  # earlier steps may be too small to remove anything
            self._check_plan(plan, step_ratio)

        selected = {group.name: units for group, units in plan.selected_units}
        dropped = [selected.get(group.name, []) for group in self._groups]

        self._model.cpu()  # groups are found on the CPU
        self._groups = channels.remove_units(
            self._model, self._groups, dropped, self._example_input
        )
        self._known_costs = None
        self._history.append(dropped)

        counts = _unit_counts(self._groups)
        layer_widths = []
        for candidate, width in plan:
            name = candidate.group.name
            assert counts[name] == width, f"{name} has {counts[name]} units instead of {width}"
            layer_widths.append(LayerWidth(candidate.group.layers, candidate.dense_count, width))

        return PruneResult({}, layer_widths, self._ratio_achieved(plan), kept=self._kept)

    def zero_units(self, saliency: Saliency, step_ratio: float) -> None:
        # Only weights are zeroed. A unit whose norm has no scale and shift could never learn again.
        with torch.no_grad():
            for group, units in self.selected_units(saliency, step_ratio):
                for member in group.filters:
                    indices = member.indices_of(units)
                    member.weight[indices.to(member.weight.device)] = 0

    def selected_units(self, saliency: Saliency, step_ratio: float) -> SelectedUnits:
        return self._plan(saliency, step_ratio).selected_units

    def load_weights(self, state: Mapping[str, Tensor], fresh: Callable[[], nn.Module]) -> None:
        # After the same steps the other network's tensors have the shapes of this one's.
        dense = fresh()
        dense.load_state_dict(state)
        groups = self._find_groups(dense).groups
        for dropped in self._history:
            groups = channels.remove_units(dense, groups, dropped, self._example_input)
        self._model.load_state_dict(dense.state_dict())

    def _plan(self, saliency: Saliency, step_ratio: float) -> Plan:
        """The widths at a ratio of what the budget names; the network does not change."""
        candidates = find_candidates(
            self._groups,
            saliency,
            self._spec,
            self._dense_counts,
            scale=lambda layer_ratio: scheduled_ratio(layer_ratio, step_ratio, self._spec.ratio),
        )
        if candidates:
            scores = {candidate.group.name: candidate.scores for candidate in candidates}
            check_scores(scores, "units")

        def widths_at(solver_ratio: float) -> list[int]:
            return self._scope(candidates, solver_ratio, self._spec.floor)

        if self._spec.budget == "native" or step_ratio == 0:
            return Plan(candidates, widths_at(step_ratio))

        # Which share of units meets the budget? The solver tries.
        costs = self._costs()
        groups = [candidate.group for candidate in candidates]
        widths = solve(
            widths_at,
            share_kept=lambda widths: costs.total(groups, widths) / self._dense_cost,
            target_share=1 - step_ratio,
        )
        return Plan(candidates, widths)

    def _costs(self) -> Costs:
        """The costs of the network as it is. Counting its MACs is slow, so they are kept."""
        if self._known_costs is None:
            macs = self._spec.budget == "macs"
            self._known_costs = Costs.of(self._model, self._example_input, macs=macs)
        return self._known_costs

    def _ratio_achieved(self, plan: Plan) -> float:
        """The share removed of what the budget names, since the dense network."""
        if self._spec.budget != "native":
            counts = _unit_counts(self._groups)
            cost = self._costs().total(self._groups, list(counts.values()))
            return 1 - cost / self._dense_cost

        if not plan.free:
            return 0.0
        return _share_of_units_removed(plan)

    def _check_plan(self, plan: Plan, ratio: float, *, may_remove_more: bool = False) -> None:
        """Raise InputError if the plan misses the ratio by more than rounding explains.

        `may_remove_more` accepts a plan that undercuts its budget.
        """
        problem = self._why_infeasible(plan, ratio)
        if problem is None and ratio > 0:
            if self._spec.budget == "native":
                problem = self._why_ratio_is_missed(plan, ratio)
            else:
                problem = self._why_budget_is_missed(plan, ratio, may_remove_more)

        if problem:
            raise InputError(f"{self._spec.method} at ratio {ratio} {problem}")

    def _why_infeasible(self, plan: Plan, ratio: float) -> str | None:
        if not plan.candidates:
            return "cannot be applied: no layer has units that it could remove"
        if ratio == 0:
            return None

        if not plan.free:
            return (
                "cannot be applied: prune.protect and prune.layer_ratios leave no layer "
                "that it could prune"
            )

        # Layers narrower than `round_to` keep their width. If all layers are, nothing is removed.
        widest, _ = max(plan.free, key=lambda pair: pair[0].dense_count)
        if widest.round_to > widest.dense_count:
            return (
                f"cannot be met: prune.round_to = {self._spec.round_to} is more than the "
                f"{widest.dense_count} {UNITS[widest.group.kind]} of {widest.group.name}, "
                "the widest layer. "
                f"Use a round_to of 1 to {widest.dense_count}."
            )
        return None

    def _why_budget_is_missed(self, plan: Plan, ratio: float, may_remove_more: bool) -> str | None:
        achieved = 1 - self._costs().total(plan.groups, plan.widths) / self._dense_cost
        allowed = BUDGET_TOLERANCE
        if self._nearest:
            allowed = max(allowed, self._largest_step(plan))
        if abs(achieved - ratio) <= allowed or (may_remove_more and achieved > ratio):
            return None

        return (
            f"of {self._spec.budget} cannot be met: the nearest that can be removed is "
            f"{achieved:.4f}. Every layer keeps at least prune.round_to = {self._spec.round_to} "
            f"channels and, where layers compete, the share prune.floor = {self._spec.floor}."
        )

    def _largest_step(self, plan: Plan) -> float:
        """The largest share of the dense cost that one step of rounding adds."""
        costs = self._costs()
        total = costs.total(plan.groups, plan.widths)

        largest = 0
        for index, (candidate, width) in enumerate(plan):
            if candidate.layer_ratio is None:
                widths = list(plan.widths)
                widths[index] = width + candidate.round_to
                largest = max(largest, costs.total(plan.groups, widths) - total)
        return largest / self._dense_cost

    def _why_ratio_is_missed(self, plan: Plan, ratio: float) -> str | None:
        removed = _share_of_units_removed(plan)
        allowed = _share_explained_by_rounding(plan)
        if removed > 0 and abs(removed - ratio) <= allowed + 1e-9:
            return None

        def distance_to_ratio(pair: tuple[Candidate, int]) -> float:
            candidate, width = pair
            return abs(width / candidate.dense_count - (1 - ratio))

        worst, width = max(plan.free, key=distance_to_ratio)
        return (
            f"cannot be met: {removed:.4f} of the {UNITS[worst.group.kind]} would be removed, and "
            f"rounding explains a difference of {allowed:.4f} at most. For example, "
            f"{worst.group.name} keeps {width} of {worst.dense_count}, because every width is a "
            f"multiple of prune.round_to = {self._spec.round_to}. "
            "Use a smaller round_to or another ratio."
        )


def _unit_counts(groups: Sequence[Group]) -> dict[str, int]:
    return {group.name: group.count for group in groups}


def _share_of_units_removed(plan: Plan) -> float:
    """The share of the dense units of free groups that the plan removes."""
    units_kept = sum(width for _, width in plan.free)
    return 1 - units_kept / _dense_units(plan)


def _share_explained_by_rounding(plan: Plan) -> float:
    """Half a rounding step in every free group; all of a group that is narrower than a step."""
    units = 0.0
    for candidate, _ in plan.free:
        if candidate.round_to <= candidate.dense_count:
            units += candidate.round_to / 2
        else:
            units += candidate.dense_count
    return units / _dense_units(plan)


def _dense_units(plan: Plan) -> int:
    return sum(candidate.dense_count for candidate, _ in plan.free)
