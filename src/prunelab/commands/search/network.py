"""What a search asks of the network itself: which methods can prune it, and ratios by layer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from prunelab.artifacts.records import ALL
from prunelab.commands.allocate.allocate import dense_network, ratios_of
from prunelab.commands.allocate.curves import read_curves
from prunelab.commands.allocate.layer_costs import AllocationTarget
from prunelab.commands.search.space import Objective, Point, params_of
from prunelab.config.params import Budget, Params, PruneSpec, parse_params
from prunelab.config.problems import validate
from prunelab.core.errors import InputError
from prunelab.core.plugins import failure_lines
from prunelab.models.catalogue import Shape
from prunelab.pruning.allocation import allocate
from prunelab.pruning.methods import METHODS
from prunelab.pruning.prune import infeasible_specs
from prunelab.pruning.sensitivity import UnitKind

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

    @classmethod
    def of(cls, base: Mapping[str, Any]) -> "SearchedNetwork":
        """Build the network of whole parameters."""
        params = parse_params(base)
        shape, model = dense_network(params)
        return cls(model, params.model, shape, base, params)

    def problem_of_method(self, name: str, budget: Budget) -> str | None:
        """Why a method cannot prune this network at any ratio of the search, None if it can."""
        ratios = self.params.search.ratio
        problem = None
        for ratio in (ratios.low, (ratios.low + ratios.high) / 2, ratios.high):
            values = {"method": name, "ratio": ratio, "budget": budget}
            problem = self._problem(validate(PruneSpec, values | self.params.prune.model_dump()))
            if problem is None:
                return None
        return problem

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
        try:
            problems = infeasible_specs(
                self.model, self.architecture, [spec], shape=self.shape, train=self.params.train
            )
        except InputError as error:
            problems = error.problems
        except (Exception, SystemExit) as error:  # a plugin may raise anything
            problems = failure_lines(error)
            if not problems:
                raise

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
                f"{kind}s, before fine-tuning"
            )
        return lines


def kind_of(method: str) -> UnitKind:
    """What a method removes, as the curves of sensitivity name it."""
    return METHODS[method].kind or "weight"
