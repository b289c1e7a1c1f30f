"""The networks that are trained again, with fresh seeds, and evaluated once on the test split.

They are the smallest network that tries found, its runners-up, and two controls of the smallest:
units removed at random, and the same architecture trained from scratch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from prunelab.commands.search.records import Final, Run, SearchState, Try
from prunelab.commands.search.runners import Runner
from prunelab.commands.search.space import Objective, Point, random_control, scratch_control
from prunelab.commands.studies.jobs import Job
from prunelab.config.params import Search
from prunelab.core.errors import InputError

TEST = "test"
CLEARLY_LARGER = 1.2  # a runner-up costs at least so many times what the one before it costs

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

    def run(self, state: SearchState) -> None:
        """Confirm candidates on validation with all seeds, then test them and the controls."""
        candidates = self._candidates(state)
        if not candidates:
            return

        wanted: list[tuple[Role, Try, str]] = [
            ("candidate", tried, tried.point.method) for tried in candidates
        ]
        smallest = candidates[0]
        controls: dict[Role, str | None] = {
            "random": random_control(smallest.point.method),
            "scratch": scratch_control(smallest.point.method),
        }
        for role, method in controls.items():
            if method is not None:
                wanted.append((role, smallest, method))
        self._measure(state, wanted)

    # --- Candidates ---

    def _candidates(self, state: SearchState) -> list[Try]:
        """The smallest tries within the drop with all seeds, each clearly larger than the last."""
        metric = self.objective.metric
        within = [tried for tried in state.tries if tried.is_within(self.max_drop)]
        within.sort(key=lambda tried: tried.last.share(metric))

        chosen: list[Try] = []
        for tried in within:
            if len(chosen) > self.search.runners_up:
                break
            is_near = chosen and (
                tried.last.share(metric) < CLEARLY_LARGER * chosen[-1].last.share(metric)
            )
            if not is_near and self._confirmed(state, tried):
                chosen.append(tried)
        return chosen

    def _confirmed(self, state: SearchState, tried: Try) -> bool:
        """Whether a try is within the drop with all seeds; it runs with them if it has not."""
        if tried.is_confirmed(self.seeds, self.max_drop):
            return True

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
        return tried.is_confirmed(self.seeds, self.max_drop)

    # --- The test split ---

    def _measure(self, state: SearchState, wanted: list[tuple[Role, Try, str]]) -> None:
        """Train networks again and test them; what was tested before is not tested again."""
        seeds, epochs = self.search.final_seeds, self.search.epochs
        jobs: dict[str, tuple[Role, Try, str, Job]] = {}
        finals: dict[str, Final] = {}
        for role, tried, method in wanted:
            point = replace(tried.point, method=method)
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


def shown_within(final: Final, max_drop: float) -> bool:
    """Whether the interval of the drop on the test split lies within the drop that is allowed."""
    measured = final.measurement
    return measured is not None and measured.drop + measured.drop_ci95 <= max_drop
