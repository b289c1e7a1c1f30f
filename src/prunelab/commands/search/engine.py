"""The search itself: which try runs next, for how long, with how many seeds, and when to end.

A try begins with a short fine-tuning of one seed. Successive halving decides whether a longer one
is worth it. One that stays within the drop and would be the best is repeated with all seeds.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

from prunelab.commands.search.records import (
    Measurement,
    Run,
    SearchState,
    Try,
    best_believed,
    cheapest,
    score,
)
from prunelab.commands.search.runners import Runner
from prunelab.commands.search.sampler import Raw, Sampler
from prunelab.commands.search.space import Objective, Point, Space
from prunelab.commands.studies.jobs import Job
from prunelab.config.params import Search
from prunelab.core.errors import InputError

OPENING = 4  # tries of the plainest setting that bracket the ratio
GIVE_UP = 4  # more tries, none within the drop, and the target is out of reach
SLACK = 1.15  # a proposal that would leave so many times the best cost is passed over
REFINE_EVERY = 2  # every so many tries, one is the best with a larger ratio
REFINED_SHARE = 0.8  # of the best cost is what that ratio leaves at least
MIN_RATIO_STEP = 0.003
STOPPED = "stopped"  # the end of a search that may go on
FAILED = "of the first tries none was within the drop, and some failed"
FAILURES = 2  # of a method that never succeeded, and it is tried no more

PrintLine = Callable[[str], None]
# The job of a point: epochs, seeds, and the number of its try. Raises InputError if it cannot run.
MakeJob = Callable[[Point, int, list[int], int], Job]
Save = Callable[[SearchState], None]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Strategy:
    """How tries are chosen. Anything but the default is for comparisons with the default."""

    sampler: Literal["tpe", "random"] = "tpe"
    halving: bool = True
    opening: int = OPENING
    passes_over: bool = True


@dataclass(frozen=True)
class Limits:
    """When to begin no more tries: after so many seconds, or as soon as `stopped()` says so."""

    seconds: float | None
    stopped: Callable[[], bool]


@dataclass
class Engine:
    """A search that runs.

    `state` is saved after every event, and may come from an earlier start of the command.
    """

    space: Space
    objective: Objective
    max_drop: float  # as a share
    seeds: list[int]
    learning_rate: float  # of the opening
    state: SearchState
    runner: Runner
    make_job: MakeJob
    save: Save
    print_line: PrintLine
    limits: Limits
    speedup: Callable[[str], tuple[float, float, float]] | None = None
    strategy: Strategy = field(default_factory=Strategy)
    clock: Clock = time.monotonic
    # By name of the job. Different tries may need the same one: where the curves of sensitivity
    # end, a larger ratio removes no more.
    _pending: dict[str, list[tuple[Try, int, list[int]]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._sampler = Sampler(
            self._search, self.space.methods, self.state.tries, self.strategy.sampler
        )
        self._longest = 0.0

    @property
    def _search(self) -> Search:
        return self.space.search

    @property
    def _first_epochs(self) -> int:
        if self.strategy.halving:
            return self._search.first_epochs
        return self._search.epochs

    # --- The loop ---

    def run(self) -> None:
        """Begin tries until an end is reached, and finish those that were begun."""
        start, before = self.clock(), self.state.seconds
        for tried in self.state.tries:
            if tried.state == "running":
                self._go_on(tried)

        while True:
            self.state.seconds = before + self.clock() - start
            while len(self._pending) < self.runner.width and self._may_begin(start):
                self._begin()
            if not self._pending:
                break
            job, failure = self.runner.wait()
            for tried, epochs, seeds in self._pending.pop(job.name):
                self._note(tried, job, epochs, seeds, failure)
            self.save(self.state)

        self.state.seconds = before + self.clock() - start
        if self.limits.stopped() and not self.state.out_of_reach:
            self.state.ended = STOPPED  # during tries after which there would have been no other
        self.save(self.state)

    def _may_begin(self, start: float) -> bool:
        """Whether another try may begin; if not, the state says why."""
        if self.state.out_of_reach or self.state.ended:
            return False

        seconds = self.limits.seconds
        reason = None
        if self.limits.stopped():
            reason = STOPPED  # before all others, which would let the test split be asked
        elif len(self.state.tries) >= self._search.tries:
            reason = f"all {self._search.tries} tries are done"
        elif seconds is not None and self.clock() - start > seconds:
            reason = "the time is up"
        elif self._is_out_of_reach():
            if self._pending:
                return False  # one of those that run may be within
            self.state.out_of_reach = not any(tried.run_failed for tried in self.state.tries)
            reason = "the target is out of reach" if self.state.out_of_reach else FAILED
        if reason:
            self.state.ended = reason
        return reason is None

    def _is_out_of_reach(self) -> bool:
        """Whether enough tries have ended, the gentlest too, and none was within the drop."""
        ended = [tried for tried in self.state.tries if tried.state != "running"]
        measured = [tried for tried in ended if tried.runs]
        if len(ended) < min(self.strategy.opening + GIVE_UP, self._search.tries):
            return False
        return not any(run_within(tried, self.max_drop) for tried in measured)

    def _begin(self) -> None:
        """Begin a try; none is left if every proposal was tried before."""
        number = len(self.state.tries)
        fixed = self._opening(number) or self._refinement(number)
        raw = self._sampler.propose(number, fixed, self._is_wanted)
        if raw is None:
            self.state.ended = "nothing else is left in the space"
            return

        tried = Try(number, raw, self._point(raw), goes_on=fixed is not None)
        self.state.tries.append(tried)
        self._go_on(tried)

    def _opening(self, number: int) -> Raw | None:
        """The values of one of the first tries, which bisect the ratio of the plainest setting.

        The last of them is the gentlest there is, if none was within the drop.
        """
        if number >= self.strategy.opening:
            return None

        low, high = self._search.ratio.low, self._search.ratio.high
        anything_within = False
        unknown = []
        for tried in self.state.tries:
            if tried.state == "running":
                unknown.append(tried.point.ratio)
            elif tried.is_within(self.max_drop):
                low = max(low, tried.point.ratio)
                anything_within = True
            else:
                high = min(high, tried.point.ratio)

        ratio = _middle_of_widest_gap(low, high, unknown)
        if number == self.strategy.opening - 1 and not anything_within:
            ratio = self._search.ratio.low
        raw = self.space.first(ratio, self.learning_rate)
        if not self._is_new(raw):
            return None
        return raw

    def _refinement(self, number: int) -> Raw | None:
        """The values of the best try with a larger ratio, None if it is not their turn.

        The ratio lies between that of the best and the least that was too much for the same
        setting, halfway by the logarithm of the cost.
        """
        if self.strategy.opening == 0 or number % REFINE_EVERY:
            return None
        best = self._best()
        if best is None:
            return None

        highest = self._search.ratio.high
        for tried in self.state.tries:
            same_but_ratio = replace(tried.point, ratio=best.point.ratio) == best.point
            if same_but_ratio and tried.point.ratio > best.point.ratio:
                highest = min(highest, tried.point.ratio)

        left = math.sqrt((1 - best.point.ratio) * (1 - highest))
        ratio = 1 - max(left, REFINED_SHARE * (1 - best.point.ratio))
        ratio = min(ratio, self._search.ratio.high)
        raw = {**best.raw, "ratio": ratio}
        if ratio - best.point.ratio < MIN_RATIO_STEP or not self._is_new(raw):
            return None
        return raw

    def _point(self, raw: Raw) -> Point:
        return self.space.feasible(self.space.point(raw))

    def _is_new(self, raw: Raw) -> bool:
        point = self._point(raw)
        return not any(tried.point == point for tried in self.state.tries)

    def _is_wanted(self, raw: Raw) -> bool:
        """Whether a proposal is new, of a method that works, and could be among the best."""
        point = self.space.point(raw)
        if point.method in self.state.skipped:
            return False

        best = self._best()
        if best is None or not self.strategy.passes_over:
            return self._is_new(raw)
        return 1 - point.ratio <= SLACK * (1 - best.point.ratio) and self._is_new(raw)

    def _best(self) -> Try | None:
        return best_believed(self.state.tries, self.objective, self.seeds, self.max_drop)

    # --- One try ---

    def _go_on(self, tried: Try) -> None:
        """Submit the next run of a try, or take what was measured before; or end the try."""
        while tried.state == "running":
            following = self._next_run(tried)
            if following is None:
                self._end(tried, "complete")
                break

            epochs, seeds = following
            try:
                job = self.make_job(tried.point, epochs, seeds, tried.number)
            except InputError as error:
                tried.reason = error.problems[0]
                self._end(tried, "failed")
                break

            measurement = self.runner.measured(job)
            if measurement is None:
                if job.name not in self._pending:
                    self.runner.submit(job)
                self._pending.setdefault(job.name, []).append((tried, epochs, seeds))
                break
            self._add(tried, job, epochs, seeds, measurement)
        self.save(self.state)

    def _next_run(self, tried: Try) -> tuple[int, list[int]] | None:
        """The epochs and the seeds of the next run, None if the try is complete."""
        if not tried.runs:
            return self._first_epochs, self.seeds[:1]

        last = tried.runs[-1]
        if last.epochs < self._search.epochs:
            return min(last.epochs * self._search.reduction, self._search.epochs), self.seeds[:1]
        if len(last.seeds) < len(self.seeds) and self._matters(tried):
            return self._search.epochs, self.seeds
        return None

    def _matters(self, tried: Try) -> bool:
        """Whether a try is within the drop and would cost less than the best believed one."""
        if tried.last.drop > self.max_drop:
            return False

        believed = []
        for other in self.state.tries:
            if other.is_believed(self.seeds, self.max_drop):
                believed.append(other)
        best = cheapest(believed, self.objective)
        if best is None:
            return True

        metric = self.objective.metric
        return tried.last.share(metric) < best.last.share(metric)

    def _note(
        self, tried: Try, job: Job, epochs: int, seeds: list[int], failure: str | None
    ) -> None:
        """Take the result of a run that has ended, and go on with its try."""
        measurement = None if failure else self.runner.measured(job)
        if measurement is None:
            lines = (failure or "no result").strip().splitlines()
            tried.reason = lines[-1] if lines else "no result"
            tried.run_failed = True
            self._end(tried, "failed")
            return
        self._add(tried, job, epochs, seeds, measurement)
        self._go_on(tried)

    def _add(
        self, tried: Try, job: Job, epochs: int, seeds: list[int], measurement: Measurement
    ) -> None:
        """Add a run to a try, and end the try if it is not worth going on."""
        if self.objective.name == "latency":
            measurement = self._with_speedup(tried, job, measurement)
        tried.runs.append(Run(job.name, epochs, seeds, measurement))
        if epochs >= self._search.epochs:
            return

        share = measurement.share(self.objective.metric)
        value = score(share, measurement.drop, self.max_drop, final=False)
        stops = self._sampler.report(tried, epochs, value)
        if stops and not tried.goes_on:
            self._end(tried, "stopped")

    def _with_speedup(self, tried: Try, job: Job, measurement: Measurement) -> Measurement:
        """The measurement with the speed-up; longer training leaves the network's speed alone."""
        if tried.runs:
            return replace(measurement, faster=tried.runs[0].measurement.faster)
        assert self.speedup is not None, "latency needs a way to measure it"
        return replace(measurement, faster=self.speedup(job.name))

    def _end(self, tried: Try, how: Literal["stopped", "complete", "failed"]) -> None:
        tried.state = how
        if how == "complete":
            share = tried.last.share(self.objective.metric)
            tried.value = score(share, tried.last.bound(), self.max_drop, final=True)
        self._sampler.finish(tried)
        if how == "failed":
            self._count_failure(tried)
        self.save(self.state)  # what is printed must survive a kill
        self.print_line(self._describe(tried))

    def _count_failure(self, tried: Try) -> None:
        """Skip a method that failed several times and never succeeded."""
        method = tried.point.method
        tries = [other for other in self.state.tries if other.point.method == method]
        failed = [other for other in tries if other.state == "failed"]
        if len(failed) >= FAILURES and not any(other.runs for other in tries):
            self.state.skipped[method] = tried.reason or "it failed"

    def _describe(self, tried: Try) -> str:
        """One line of a try that has ended."""
        start = f"try {tried.number + 1}: {tried.point.describe()}"
        if tried.state == "failed":
            return f"{start}: failed ({tried.reason})"

        last = tried.last
        share = last.share(self.objective.metric)
        run = tried.runs[-1]
        outcome = f"{100 * last.drop:+.2f} points lost on validation, {share:.1%} of the "
        outcome += f"{self.objective.noun} left, {run.epochs} epochs, {len(run.seeds)} seed"
        outcome += "s" * (len(run.seeds) > 1)
        if tried.state == "stopped":
            return f"{start}: {outcome}; not worth going on"
        if last.drop > self.max_drop:
            return f"{start}: {outcome}; too much"
        return f"{start}: {outcome}; within"


def _middle_of_widest_gap(low: float, high: float, between: Iterable[float]) -> float:
    """The middle of the widest gap that values leave between two ends, the highest of such gaps."""
    ends = [low, *sorted(value for value in between if low < value < high), high]
    _, middle = max((upper - lower, (lower + upper) / 2) for lower, upper in pairwise(ends))
    return middle


def run_within(tried: Try, max_drop: float) -> bool:
    """Whether any run of a try was within the drop."""
    return any(run.measurement.drop <= max_drop for run in tried.runs)


def try_again(state: SearchState, max_drop: float) -> None:
    """Let the tries whose runs failed go on, if no other came to an end within the drop.

    What failed them may be gone, such as a full disk.
    """
    failed = [tried for tried in state.tries if tried.run_failed]
    if not failed or any(tried.is_within(max_drop) for tried in state.tries):
        return

    for tried in failed:
        tried.state, tried.reason, tried.run_failed = "running", None, False
        state.skipped.pop(tried.point.method, None)
    state.ended = None


def front(tries: list[Try], metric: str) -> list[Try]:
    """The complete tries that no other beats in both drop and cost, the cheapest first."""
    complete = [tried for tried in tries if tried.state == "complete"]
    complete.sort(key=lambda tried: (tried.last.share(metric), tried.last.drop))

    chosen: list[Try] = []
    for tried in complete:
        if not chosen or tried.last.drop < chosen[-1].last.drop:
            chosen.append(tried)
    return chosen
