"""Searches whose tries are measured by a formula, so that thousands take a second."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from helpers.params import PROJECT
from helpers.studies import PIPELINE
from prunelab.commands.search.engine import Engine, Limits, Strategy
from prunelab.commands.search.finals import FinalRound
from prunelab.commands.search.records import Measurement, SearchState
from prunelab.commands.search.space import OBJECTIVES, Point, Space, params_of
from prunelab.commands.studies.jobs import Job
from prunelab.config.params import Params, Search, parse_params, read_params
from prunelab.core.errors import InputError
from prunelab.project.experiments import digest, experiment_name
from prunelab.statistics.intervals import NORMAL_QUANTILE

DENSE = 1_000_000
NOISE_FREE_HALF_WIDTH = 0.002
Rule = Callable[[dict[str, Any]], float]  # the drop of whole parameters


class Killed(BaseException):
    """What stands for a kill: nothing may catch it."""


def base_params() -> dict[str, Any]:
    return read_params(PROJECT / "params.yaml")


def search_section(**changes: object) -> Search:
    """The shipped section with some keys changed."""
    return Params.model_validate(base_params()).search.model_copy(update=changes)


def plain_rule(params: dict[str, Any]) -> float:
    """The drop rises with the ratio, falls with epochs, and methods and rates differ."""
    methods = {"l1_channel": 0.0, "l2_channel_global": -0.004, "taylor_channel_global": -0.008}
    ratio, rate = params["ratio"], params["finetune"]["learning_rate"]
    drop = 0.4 * max(0, ratio - 0.7) ** 2 + methods.get(params["method"], 0.01) * ratio
    drop += 0.004 * abs(math.log10(rate / 0.05))
    return drop + 0.02 * (1 + 2 * ratio) / params["finetune"]["epochs"]


@dataclass
class Noise:
    """The plain rule as a split of few images measures it: every setting has its own luck there."""

    error: float
    seed: int

    def rule(self, params: dict[str, Any]) -> float:
        drop = plain_rule(params)
        if params["evaluate"]["split"] == "test":
            return drop
        luck = Random(f"{self.seed} {digest({**params, 'seeds': None, 'search': None})}")
        return drop + luck.gauss(0, self.error)


@dataclass
class FormulaRunner:
    """Measures by a formula, the oldest job first. It fails jobs for which `fails` has a reason."""

    rule: Rule
    width: int = 1
    fails: Callable[[dict[str, Any]], str | None] = lambda params: None
    kill_after: int | None = None  # so many jobs
    half_width: float = NOISE_FREE_HALF_WIDTH
    done: dict[str, Measurement] = field(default_factory=dict)
    ran: list[Job] = field(default_factory=list)
    queue: list[Job] = field(default_factory=list)

    def measured(self, job: Job) -> Measurement | None:
        return self.done.get(job.name)

    def submit(self, job: Job) -> None:
        self.queue.append(job)

    def wait(self) -> tuple[Job, str | None]:
        if self.kill_after is not None and len(self.ran) >= self.kill_after:
            raise Killed
        job = self.queue.pop(0)
        self.ran.append(job)
        params = dict(job.params)
        reason = self.fails(params)
        if reason is None:
            self.done[job.name] = self._measure(params)
        return job, reason

    def _measure(self, params: dict[str, Any]) -> Measurement:
        drop = self.rule(params)
        dense = dict.fromkeys(("macs", "params", "params_nonzero", "size_compressed_bytes"), DENSE)
        left = {key: round((1 - params["ratio"]) * DENSE) for key in dense}
        error = self.half_width / NORMAL_QUANTILE
        return Measurement(0.95 - drop, self.half_width, drop, self.half_width, error, left, dense)


@dataclass
class FormulaSearch:
    """A search over the shipped parameters, with a formula for measurements."""

    search: Search
    runner: FormulaRunner
    max_drop: float = 0.01
    strategy: Strategy = field(default_factory=Strategy)
    folder: Path | None = None  # where the state is saved
    infeasible: Callable[[dict[str, Any]], str | None] = lambda params: None
    feasible: Callable[[Point], Point] = lambda point: point
    lines: list[str] = field(default_factory=list)
    stopped: Callable[[], bool] = lambda: False
    objective: str = "macs"

    def __post_init__(self) -> None:
        self.base = {**base_params(), "search": self.search.model_dump()}
        self.params = parse_params(self.base)

    def params_of(self, point: Point, epochs: int, seeds: list[int], split: str) -> dict:
        objective = OBJECTIVES[self.objective]
        params = params_of(self.base, objective, point, epochs=epochs, seeds=seeds, split=split)

        problem = self.infeasible(params)
        if problem:
            raise InputError(problem)
        return params

    def job(self, params: dict, label: str) -> Job:
        setting = f"{params['method']}-{params['ratio']}"
        return Job(
            label, experiment_name("search", setting, PIPELINE.select(params), {}), params, {}, ""
        )

    def save(self, state: SearchState) -> None:
        if self.folder:
            state.save(self.folder)

    def run(self, state: SearchState | None = None) -> SearchState:
        """Run the tries of a search, from its state if it began before."""
        state = state or SearchState({}, {})

        def make_job(point: Point, epochs: int, seeds: list[int], number: int) -> Job:
            params = self.params_of(point, epochs, seeds, "validation")
            return self.job(params, f"try {number}, {epochs}, {seeds}")

        Engine(
            space=Space(list(self.search.methods), self.search),
            objective=OBJECTIVES[self.objective],
            max_drop=self.max_drop,
            seeds=self.params.seeds,
            learning_rate=self.params.finetune.learning_rate,
            state=state,
            runner=self.runner,
            make_job=make_job,
            save=self.save,
            print_line=self.lines.append,
            limits=Limits(None, self.stopped),
            strategy=self.strategy,
        ).run()
        return state

    def test(self, state: SearchState) -> SearchState:
        """Train what was found again, and test it."""
        FinalRound(
            objective=OBJECTIVES[self.objective],
            max_drop=self.max_drop,
            seeds=self.params.seeds,
            search=self.search,
            runner=self.runner,
            make_params=self.params_of,
            make_job=self.job,
            save=self.save,
            print_line=self.lines.append,
            feasible=self.feasible,
        ).run(state)
        return state


def formula_search(rule: Rule = plain_rule, **changes: object) -> FormulaSearch:
    """A search by a formula; keys of section `search` may be changed."""
    return FormulaSearch(search_section(**changes), FormulaRunner(rule))
