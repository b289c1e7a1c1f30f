"""The cost of a network whose layers keep some of their units; its latency is measured."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass

from torch import nn

from prunelab.benchmarking.backends import eager, inputs_of
from prunelab.benchmarking.latency import Speedup, speedup_of, time_interleaved, timer
from prunelab.config.params import Budget, PruneSpec
from prunelab.models.catalogue import Shape
from prunelab.models.cost import macs, output_positions, parameters
from prunelab.models.networks import example_input, prunable_weights
from prunelab.pruning.prune import find_groups, prune
from prunelab.pruning.sensitivity import METHODS, UnitKind
from prunelab.pruning.structured.budget import Costs
from prunelab.pruning.structured.groups import Group
from prunelab.runtime.device import Execution

RemainingShare = Callable[[Sequence[int]], float]  # of a cost, by the units that layers keep


@dataclass(frozen=True)
class AllocationTarget:
    """A network to allocate to, and its layers: by weights, or by the groups of one kind."""

    model: nn.Module
    architecture: str
    shape: Shape
    kind: UnitKind
    groups: list[Group]

    @classmethod
    def of(
        cls, model: nn.Module, architecture: str, shape: Shape, kind: UnitKind
    ) -> "AllocationTarget":
        """Find the units of one kind in a network; raises InputError if it has none."""
        groups: list[Group] = []
        if kind != "weight":
            found = find_groups(
                model,
                architecture=architecture,
                kind=kind,
                shape=shape,
                method=METHODS[kind],
            )
            groups = found.groups
        return cls(model, architecture, shape, kind, groups)

    @property
    def units(self) -> dict[str, int]:
        """The number of units of every layer, by its name."""
        if self.kind != "weight":
            return {group.name: group.count for group in self.groups}

        units = {}
        for name, weight in prunable_weights(self.model).items():
            layer = name.rpartition(".")[0]
            units[layer] = weight.numel()
        return units

    def remaining_share(self, names: Sequence[str], budget: Budget) -> RemainingShare:
        """Return a function that maps the widths of some layers to the share of the cost left.

        All other layers stay whole. The cost `native` is the number of units of these layers alone,
        as for `ratio`.
        """
        if budget == "native":
            units = self.units
            return lambda widths: sum(widths) / sum(units[name] for name in names)

        if self.kind == "weight":
            return self._remaining_of_weights(names, budget)
        return self._remaining_of_groups(names, budget)

    def _remaining_of_groups(self, names: Sequence[str], budget: Budget) -> RemainingShare:
        groups_by_name = {group.name: group for group in self.groups}
        groups = [groups_by_name[name] for name in names]
        costs = Costs.of(self.model, example_input(self.shape), macs=budget == "macs")
        total = self._total(budget)
        return lambda widths: costs.total(groups, widths) / total

    def _remaining_of_weights(self, names: Sequence[str], budget: Budget) -> RemainingShare:
        units = self.units
        total = self._total(budget)
        # A weight is used once per position of its layer's output.
        uses = dict.fromkeys(units, 1)
        if budget == "macs":
            uses = output_positions(self.model, example_input(self.shape))

        def remaining(widths: Sequence[int]) -> float:
            removed = 0
            for name, width in zip(names, widths, strict=True):
                removed += (units[name] - width) * uses[name]
            return 1 - removed / total

        return remaining

    def _total(self, budget: Budget) -> int:
        if budget == "macs":
            return macs(self.model, self.shape)
        return parameters(self.model)

    def measure_speedup(
        self, spec: PruneSpec, execution: Execution, *, batch_size: int, rounds: int
    ) -> Speedup:
        """Measure how many times faster the network is after pruning by `spec`."""
        pruned = deepcopy(self.model)
        prune(pruned, self.architecture, spec, shape=self.shape, seed=0)

        inputs = inputs_of(self.shape, batch_size, execution)
        runnables = {}
        for name, model in (("dense", deepcopy(self.model)), ("pruned", pruned)):
            runnables[name] = eager(execution.place(model).eval(), inputs, execution)

        seconds = time_interleaved(
            runnables, timer(execution.device), rounds=rounds, round_s=0.2, warm_up_s=0.5
        )
        return speedup_of(seconds["dense"], seconds["pruned"])
