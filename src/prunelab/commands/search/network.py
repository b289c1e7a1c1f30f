"""What a search asks of the network itself: which methods can prune it, and ratios by layer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import nn

from prunelab.artifacts.records import ALL
from prunelab.commands.allocate.allocate import dense_network, ratios_of
from prunelab.commands.allocate.curves import read_curves
from prunelab.commands.allocate.layer_costs import AllocationTarget
from prunelab.commands.search.space import RATIO_DECIMALS, Objective, Point, params_of
from prunelab.config.params import Budget, Params, PruneSpec, parse_params
from prunelab.config.problems import validate
from prunelab.core.errors import InputError
from prunelab.core.plugins import failure_lines
from prunelab.core.plurals import UNITS
from prunelab.models.catalogue import Shape
from prunelab.models.structure import Structure, registered_structure
from prunelab.pruning.allocation import allocate
from prunelab.pruning.methods import METHODS, Kind
from prunelab.pruning.prune import check_feasible, infeasible_specs
from prunelab.pruning.sensitivity import UnitKind
from prunelab.pruning.structured.groups import FoundGroups

# Ratios are tried in so many steps to either side of one at which a network cannot be pruned.
NEAR_STEP, NEAR_STEPS = 0.002, 10
MAX_LIMITS = 3  # layers that are named as what limits a search


@dataclass
class SearchedNetwork:
    """The untrained network that a search prunes; its structure is what counts.

    `record` has the curves of the layers' sensitivity, None if no try needs them.
    """

    model: nn.Module
    architecture: str
    shape: Shape
    base: Mapping[str, Any]
    params: Params
    record: Mapping[str, Any] | None = None
    _targets: dict[UnitKind, AllocationTarget] = field(default_factory=dict)
    _groups: dict[Kind, FoundGroups] = field(default_factory=dict)  # finding them is slow
    _feasible: dict[tuple[str, float, int, Budget], bool] = field(default_factory=dict)
    _largest: dict[tuple[str, int, Budget], float] = field(default_factory=dict)

    @classmethod
    def of(cls, base: Mapping[str, Any]) -> "SearchedNetwork":
        """Build the network of whole parameters."""
        params = parse_params(base)
        shape, model = dense_network(params)
        return cls(model, params.model, shape, base, params)

    def problem_of_method(self, name: str, budget: Budget) -> str | None:
        """Why a method cannot prune this network at any ratio of the search, None if it can."""
        ratios = self.params.search.ratio
        round_to = min(self.params.search.round_to)
        problem = ""
        for ratio in (ratios.low, (ratios.low + ratios.high) / 2, ratios.high):
            last_problem = self._problem(self._spec(name, ratio, budget, round_to))
            if last_problem is None:
                return None
            problem = last_problem
        return problem.removeprefix(f"{name}: ")

    def nearest_ratio(self, name: str, ratio: float, round_to: int, budget: Budget) -> float:
        """The ratio next to `ratio` at which a method can prune this network, or `ratio` itself.

        A method across layers has a largest ratio, below which everything is feasible. Uniform
        methods miss ratios in between, since many layers change their width at once.
        """
        if self._is_feasible(name, ratio, round_to, budget):
            return ratio
        if METHODS[name].scope not in ("uniform", "layerwise"):
            return min(ratio, self._largest_ratio(name, round_to, budget))

        for step in range(1, NEAR_STEPS + 1):
            for near in (ratio + step * NEAR_STEP, ratio - step * NEAR_STEP):
                near = round(near, RATIO_DECIMALS)
                if 0 < near < 1 and self._is_feasible(name, near, round_to, budget):
                    return near
        return min(ratio, self._largest_ratio(name, round_to, budget))

    def _largest_ratio(self, name: str, round_to: int, budget: Budget) -> float:
        """The largest ratio of the search's range that is feasible, by bisection; 1 if none is."""
        key = (name, round_to, budget)
        if key not in self._largest:
            reached, missed = self.params.search.ratio.low, self.params.search.ratio.high
            while missed - reached > NEAR_STEP:
                middle = round((reached + missed) / 2, RATIO_DECIMALS)
                if self._is_feasible(name, middle, round_to, budget):
                    reached = middle
                else:
                    missed = middle

            if not self._is_feasible(name, reached, round_to, budget):
                reached = 1.0
            self._largest[key] = reached
        return self._largest[key]

    def _is_feasible(self, name: str, ratio: float, round_to: int, budget: Budget) -> bool:
        key = (name, ratio, round_to, budget)
        if key not in self._feasible:
            spec = self._spec(name, ratio, budget, round_to)

            def check() -> list[str]:
                check_feasible(self.model, self._structure, spec, self._groups)
                return []

            self._feasible[key] = not _problems(check)
        return self._feasible[key]

    @cached_property
    def _structure(self) -> Structure:
        return registered_structure(self.architecture, self.model, self.shape)

    def _spec(self, name: str, ratio: float, budget: Budget, round_to: int) -> PruneSpec:
        settings = {
            **self.params.prune.model_dump(),
            "method": name,
            "ratio": ratio,
            "budget": budget,
            "round_to": round_to,
        }
        return validate(PruneSpec, settings)

    def params_of(
        self, objective: Objective, point: Point, epochs: int, seeds: list[int], split: str
    ) -> dict[str, Any]:
        """The whole parameters with which the focus measures a point.

        Raises:
            InputError: if the network cannot be pruned so.
        """
        layer_ratios = None
        if point.layers == "sensitivity":
            layer_ratios = self.layer_ratios(
                point.method, point.ratio, objective.budget, point.round_to
            )

        params = params_of(
            self.base,
            objective,
            point,
            epochs=epochs,
            seeds=seeds,
            split=split,
            layer_ratios=layer_ratios,
        )
        problem = self._problem_of_params(params)
        if problem:
            raise InputError(problem)
        return params

    def _problem_of_params(self, params: Mapping[str, Any]) -> str | None:
        """Why the focus of these parameters cannot be pruned, None if it can."""
        settings = {
            **params["prune"],
            "method": params["method"],
            "ratio": params["ratio"],
            "budget": params["budget"],
        }
        return self._problem(validate(PruneSpec, settings))

    def _problem(self, spec: PruneSpec) -> str | None:
        problems = _problems(
            lambda: infeasible_specs(
                self.model, self.architecture, [spec], shape=self.shape, train=self.params.train
            )
        )
        return problems[0] if problems else None

    def layer_ratios(
        self, method: str, ratio: float, budget: Budget, round_to: int
    ) -> dict[str, float]:
        """A ratio for every layer by its sensitivity; together they remove `ratio` of the budget.

        Where the curves end before that, they remove less.
        """
        assert self.record is not None, "the curves were not measured"
        kind = kind_of(method)
        if kind not in self._targets:
            target = AllocationTarget.of(self.model, self.architecture, self.shape, kind)
            self._targets[kind] = target
        target = self._targets[kind]

        prune = self.params.prune.model_copy(update={"round_to": round_to})
        params = self.params.model_copy(update={"prune": prune})
        curves = read_curves(self.record, kind, target.units, params)
        remaining = target.remaining_share([curve.name for curve in curves], budget)
        return ratios_of(curves, allocate(curves, remaining, 1 - ratio))

    def limits(self, method: str) -> list[str]:
        """The layers that tolerate least, the worst first, with the drop that each alone costs."""
        if self.record is None:
            return []
        kind = kind_of(method)
        rows = [row for row in self.record["rows"] if row["granularity"] == kind]
        rows = [row for row in rows if row["layer"] != ALL]
        if not rows:
            return []

        # At the ratio that is nearest to the gentlest of the search.
        gentlest = self.params.search.ratio.low
        nearest = min({row["ratio"] for row in rows}, key=lambda ratio: abs(ratio - gentlest))
        rows = [row for row in rows if row["ratio"] == nearest]
        rows.sort(key=lambda row: float(row["accuracy"]))

        lines = []
        for row in rows[:MAX_LIMITS]:
            drop = 100 * (self.record["accuracy"] - row["accuracy"])
            lines.append(
                f"{row['layer']} alone costs {drop:.2f} points at {row['removed']:.0%} of its "
                f"{UNITS[kind]}, before fine-tuning"
            )
        return lines


def _problems(check: Callable[[], Sequence[str]]) -> Sequence[str]:
    """What a check of a spec finds or raises; a plugin may raise anything."""
    try:
        return check()
    except InputError as error:
        return error.problems
    except (Exception, SystemExit) as error:
        lines = failure_lines(error)
        if not lines:
            raise
        return lines


def kind_of(method: str) -> UnitKind:
    """What a method removes, as the curves of sensitivity name it."""
    return METHODS[method].kind or "weight"
