"""The networks that are trained again, with fresh seeds, and evaluated once on the test split.

They are the smallest network that is believed to be within the drop, its runners-up, and two
controls of the smallest: units removed at random, and the same architecture trained from scratch.

Which drops are believed: few images and few seeds measure a drop badly, and the smallest of many
tries was lucky there. The drop on validation, with all seeds, must therefore be within by a
standard error. Each runner-up is clearly larger, and must be within by more standard errors.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from prunelab.commands.search.records import CAUTION, Final, Run, SearchState, Try
from prunelab.commands.search.runners import Runner
from prunelab.commands.search.space import Objective, Point, random_control, scratch_control
from prunelab.commands.studies.jobs import Job
from prunelab.config.params import Search
from prunelab.core.errors import InputError

TEST = "test"
CLEARLY_LARGER = 1.2  # a runner-up costs at least so many times what the one before it costs
MORE_CAUTION = 0.5  # standard errors by which a runner-up is safer than the one before it
MAX_UNBELIEVED = 4  # tries that are confirmed for one place among the candidates, at most

Role = Literal["candidate", "random", "scratch"]
# The whole parameters of a point, for epochs, seeds and a split. InputError if it cannot run.
MakeParams = Callable[[Point, int, list[int], str], dict[str, Any]]
MakeJob = Callable[[Mapping[str, Any], str], Job]


@dataclass(frozen=True)
class FinalRound:
    """What training again needs."""

    objective: Objective
    max_drop: float  # as a share
    seeds: list[int]
    search: Search
    runner: Runner
    make_params: MakeParams
    make_job: MakeJob
    save: Callable[[SearchState], None]
    print_line: Callable[[str], None]
    # The point with the nearest ratio at which its method can prune the network.
    feasible: Callable[[Point], Point] = lambda point: point

    def run(self, state: SearchState) -> None:
        """Confirm candidates on validation with all seeds, then test them and the controls."""
        candidates = self._candidates(state)
        if not candidates:
            return

        wanted: list[tuple[Role, Try, str]] = [
            ("candidate", tried, tried.point.method) for tried in candidates
        ]
        smallest = candidates[0]
        for role, method in self.controls(smallest).items():
            if method is not None:
                wanted.append((role, smallest, method))
        self._measure(state, wanted)

    def controls(self, smallest: Try) -> dict[Role, str | None]:
        """The methods of the controls, None where there is none."""
        return {
            "random": random_control(smallest.point.method),
            "scratch": scratch_control(smallest.point.method),
        }

    # --- Candidates ---

    def _candidates(self, state: SearchState) -> list[Try]:
        """The smallest believed try and its runners-up, each clearly larger than the last.

        Where none is believed, the one that comes nearest is taken, if it is within at all.
        """
        metric = self.objective.metric
        within = [tried for tried in state.tries if tried.is_within(self.max_drop)]
        within.sort(key=lambda tried: tried.last.share(metric))

        chosen: list[Try] = []
        for place in range(1 + self.search.runners_up):
            errors = CAUTION + place * MORE_CAUTION
            larger = within
            if chosen:
                least = CLEARLY_LARGER * chosen[-1].last.share(metric)
                larger = [tried for tried in within if tried.last.share(metric) >= least]
            candidate = self._believed(state, larger, errors)
            if candidate is None:
                break
            chosen.append(candidate)
        return chosen

    def _believed(self, state: SearchState, tries: list[Try], errors: float) -> Try | None:
        """The first of these tries that is within by so many standard errors, with all seeds.

        If there is none, the try that comes nearest to that; None if none is within the drop.
        """
        confirmed: list[Try] = []
        for tried in tries:
            if len(confirmed) >= MAX_UNBELIEVED and not tried.has_all(self.seeds):
                continue
            if not self._confirmed(state, tried):
                continue
            if tried.is_believed(self.seeds, self.max_drop, errors):
                return tried
            confirmed.append(tried)
        return min(confirmed, key=lambda tried: tried.last.bound(errors), default=None)

    def _confirmed(self, state: SearchState, tried: Try) -> bool:
        """Whether a try is within the drop with all seeds; it runs with them if it has not."""
        if tried.has_all(self.seeds):
            return tried.is_within(self.max_drop)

        epochs = self.search.epochs
        label = f"try {tried.number + 1}, {epochs} epochs, all seeds"
        params = self.make_params(tried.point, epochs, self.seeds, "validation")
        job = self.make_job(params, label)
        if self.runner.measured(job) is None:
            self.runner.submit(job)
            self.runner.wait()
        measurement = self.runner.measured(job)
        if measurement is None:
            return False

        faster = tried.last.faster
        run = Run(job.name, epochs, self.seeds, replace(measurement, faster=faster))
        tried.runs.append(run)
        self.save(state)
        self.print_line(
            f"try {tried.number + 1} with all seeds: {100 * measurement.drop:+.2f} points lost on "
            "validation"
        )
        return tried.is_within(self.max_drop)

    # --- The test split ---

    def _measure(self, state: SearchState, wanted: list[tuple[Role, Try, str]]) -> None:
        """Train networks again and test them; what was tested before is not tested again."""
        seeds, epochs = self.search.final_seeds, self.search.epochs
        jobs: dict[str, tuple[Role, Try, str, Job]] = {}
        finals: dict[str, Final] = {}
        for role, tried, method in wanted:
            point = tried.point
            if method != point.method:
                point = self.feasible(replace(point, method=method))
            try:
                params = self.make_params(point, epochs, seeds, TEST)
            except InputError as error:
                name = f"{role}-{method}"
                finals[name] = Final(role, tried.number, method, name, {}, None, error.problems[0])
                continue
            job = self.make_job(params, f"{role}: {method} of try {tried.number + 1}")
            jobs[job.name] = (role, tried, method, job)

        failures: dict[str, str] = {}
        submitted = 0
        for *_, job in jobs.values():
            if self.runner.measured(job) is None:
                self.runner.submit(job)
                submitted += 1
        for _ in range(submitted):
            job, failure = self.runner.wait()
            if failure:
                failures[job.name] = failure.strip() or "no result"
            self.print_line(f"trained again and tested: {job.label}")

        for name, (role, tried, method, job) in jobs.items():
            measurement = self.runner.measured(job)
            reason = None
            if measurement is None:
                reason = failures.get(name, "no result").splitlines()[-1]
            finals[name] = Final(
                role, tried.number, method, name, dict(job.params), measurement, reason
            )
        state.finals = list(finals.values())
        self.save(state)


def lies_within(final: Final, max_drop: float) -> bool:
    """Whether the interval of the drop on the test split lies within the drop that is allowed."""
    measured = final.measurement
    return measured is not None and measured.drop + measured.drop_ci95 <= max_drop


def shown_within(tested: Sequence[Final], max_drop: float) -> list[Final]:
    """Those of the candidates, the smallest first, that are shown to be within the drop.

    Of several networks, one may lie within by luck. They are therefore looked at from the largest
    to the smallest, an order that no result of the test split has a say in, and the first that does
    not lie within ends it. So the smallest that is shown is wrongly shown in at most 2.5 of 100
    searches, however many were tested (Maurer et al. 1995, tests in a fixed sequence).
    """
    shown: list[Final] = []
    for final in reversed(tested):
        if not lies_within(final, max_drop):
            break
        shown.insert(0, final)
    return shown
