"""What is left of a network's cost once its parts keep so many units, and of its latency, which is measured."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

from torch import nn

from prunelab.benchmark.backends import eager, inputs_of
from prunelab.benchmark.latency import Ratio, ratio, time_interleaved, timer
from prunelab.config.params import Budget, PruneSpec
from prunelab.models.catalogue import Shape, example_input, prunable_weights
from prunelab.models.cost import macs, output_positions, parameters
from prunelab.pruning.prune import find_groups, prune
from prunelab.pruning.sensitivity import METHODS, UnitKind
from prunelab.pruning.structured.budget import Costs
from prunelab.pruning.structured.groups import Group
from prunelab.runtime.device import Execution
from prunelab.training.trainer import Untrained

Widths = Mapping[str, int]  # units kept, by the name of the part


@dataclass(frozen=True)
class AllocationTarget:
    """A network to allocate to, with its parts: weights by layer, or the groups of one kind."""

    model: nn.Module
    architecture: str
    shape: Shape
    what: UnitKind
    groups: list[Group]

    @classmethod
    def of(
        cls, model: nn.Module, architecture: str, shape: Shape, what: UnitKind
    ) -> "AllocationTarget":
        """Trace a network for what is to be cut; raises InputError where it has none of that."""
        found = (
            [] if what == "weight" else find_groups(what, architecture, shape, METHODS[what], model)
        )
        return cls(model, architecture, shape, what, found)

    @property
    def units(self) -> dict[str, int]:
        """How many units every part has, by its name."""
        if self.what != "weight":
            return {group.name: group.count for group in self.groups}
        return {
            name.rpartition(".")[0]: weight.numel()
            for name, weight in prunable_weights(self.model).items()
        }

    def kept(self, names: Sequence[str], budget: Budget) -> Callable[[Sequence[int]], float]:
        """The share that is left of what the budget names, by the widths of the parts named; others stay whole.

        `native`: of the units of these parts alone, as `ratio` has it.
        """
        units, one = self.units, example_input(self.shape)
        if budget == "native":
            return lambda widths: sum(widths) / sum(units[name] for name in names)
        total = macs(self.model, self.shape) if budget == "macs" else parameters(self.model)
        if self.what != "weight":
            costs, concerned = (
                Costs.of(self.model, one, macs=budget == "macs"),
                {g.name: g for g in self.groups},
            )
            return lambda widths: costs.total([concerned[name] for name in names], widths) / total
        uses = output_positions(self.model, one) if budget == "macs" else dict.fromkeys(units, 1)

        def left(widths: Sequence[int]) -> float:
            gone = sum(
                (units[name] - width) * uses[name]
                for name, width in zip(names, widths, strict=True)
            )
            return 1 - gone / total

        return left

    def faster(
        self, spec: PruneSpec, execution: Execution, *, batch_size: int, rounds: int
    ) -> Ratio:
        """How many times faster the network is, measured here and now, once it is pruned by `spec`."""
        thin = deepcopy(self.model)
        prune(thin, self.architecture, spec, shape=self.shape, seed=0, trainer=Untrained())  # type: ignore[arg-type]
        inputs = inputs_of(self.shape, batch_size, execution)
        arms = {
            name: eager(execution.place(model).eval(), inputs, execution)
            for name, model in (("dense", deepcopy(self.model)), ("pruned", thin))
        }
        seconds = time_interleaved(
            arms, timer(execution.device), rounds=rounds, round_s=0.2, warm_up_s=0.5
        )
        return ratio(seconds["dense"], seconds["pruned"])
