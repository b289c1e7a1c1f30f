"""What `prunelab search` does: plan, try, train again, answer."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from prunelab.artifacts.records import Sensitivity, read_record
from prunelab.commands.allocate.curves import RECORD, read_own_record
from prunelab.commands.common import interruptible
from prunelab.commands.search.answer import answer, reproducing_command
from prunelab.commands.search.control import STOP_FILE, only_one, state_of, status
from prunelab.commands.search.engine import STOPPED, Engine, Limits, try_again
from prunelab.commands.search.finals import FinalRound
from prunelab.commands.search.latency import busy_programs, speedup_of
from prunelab.commands.search.network import SearchedNetwork
from prunelab.commands.search.plan import (
    Plan,
    Request,
    Where,
    differences,
    last_folder,
    make_plan,
)
from prunelab.commands.search.records import Final, SearchState
from prunelab.commands.search.result import result_of, write_result
from prunelab.commands.search.runners import Runner, cluster_runner, local_runner
from prunelab.commands.search.space import Point, Space, space_of
from prunelab.commands.studies.jobs import Job
from prunelab.commands.studies.local import Dvc, refresh_changed_inputs
from prunelab.core.errors import InputError
from prunelab.core.files import write
from prunelab.project.clones import Checkout
from prunelab.project.paths import BASE

SENSITIVITY_FILE = "sensitivity.json"
SENSITIVITY_TARGET = "sensitivity"
FINAL_SHARE = 0.3  # of the time given, at least, is kept for training again

PrintLine = Callable[[str], None]


def run_search(
    root: Path, request: Request, where: Where, within_s: float | None, print_line: PrintLine
) -> list[str]:
    """Begin a search, or go on with it; return the lines of the answer.

    Raises:
        InputError: with one line per problem, before any work; or if the same search runs already.
    """
    if where.address and where.jobs > 1:
        raise InputError(
            "--jobs is for this machine. With --address, --cpus-per-task decides how many tries "
            "Ray runs at a time."
        )
    plan = make_plan(root, request, elsewhere=where.address is not None)
    with interruptible(), only_one(plan.folder):
        return _Search(plan, where, within_s, print_line).run()


def resume_search(
    root: Path, where: Where, within_s: float | None, print_line: PrintLine
) -> list[str]:
    """Go on with the last search.

    Raises:
        InputError: if there is none, or if parameters, code or data have changed since.
    """
    folder = last_folder(root)
    state = state_of(folder)
    request = Request(**state.request)
    plan = make_plan(root, request, elsewhere=where.address is not None)

    changed = differences(state.identity, plan.identity)
    if changed:
        raise InputError(
            f"{', '.join(changed)} changed since the search began, so its tries cannot be "
            f"continued. Restore that, or begin another search: {request.command()}"
        )

    with interruptible(), only_one(plan.folder):
        return _Search(plan, where, within_s, print_line).run()


@dataclass
class _Search:
    """One start of the command."""

    plan: Plan
    where: Where
    within_s: float | None
    print_line: PrintLine

    def run(self) -> list[str]:
        """Do what is left to do, and return the answer."""
        plan = self.plan
        state = SearchState.load(plan.folder)
        if state is None:
            state = SearchState(asdict(plan.request), plan.identity)

        self.print_line("checking methods on this network ...")
        network = SearchedNetwork.of(plan.base)
        space = self._space(network, state)
        # Not earlier: a search with nothing to try must not take the place of the one before.
        state.save(plan.folder)
        plan.remember()

        self._warn_of_noise()
        if not _is_done(state):
            if state.ended == STOPPED:
                state.ended = None
            try_again(state, plan.request.max_drop_share)
            self._work(network, space, state)
        else:
            network.record = self._stored_record()

        if state.ended == STOPPED:
            return status(plan.root)
        limits: list[str] = []
        if state.tries and not state.finals:
            limits = network.limits(state.tries[0].point.method)
        lines = answer(state, plan.request, plan.tree, limits)
        return [*lines, *self._write_result(space, state, lines)]

    def _write_result(
        self, space: Space, state: SearchState, lines: Sequence[str]
    ) -> Iterator[str]:
        """Write the files of the search, if it measured anything, and say where they are."""
        plan = self.plan
        if not any(tried.runs for tried in state.tries):
            return
        command = ""
        if state.tested:
            smallest, _ = state.tested[0]
            command = reproducing_command(plan.tree, smallest.params)

        request, params = plan.request, plan.params
        name = f"{params.model}-{params.dataset}-{request.minimise}-{request.max_drop:g}"
        result = result_of(plan, space.methods, state, lines, command)
        path = write_result(plan.root, name, result)
        yield f"All tries: {path.relative_to(plan.root)}, and as a picture beside it (.svg, .png)."

    def _space(self, network: SearchedNetwork, state: SearchState) -> Space:
        objective = self.plan.request.objective
        space = space_of(
            self.plan.params.search,
            objective,
            partial(network.problem_of_method, budget=objective.budget),
            partial(network.nearest_ratio, budget=objective.budget),
        )

        state.skipped = {**space.skipped, **state.skipped}
        for name, reason in space.skipped.items():
            self.print_line(f"skipped: {name} ({reason})")
        return space

    def _warn_of_noise(self) -> None:
        if self.plan.request.minimise != "latency":
            return

        busy = list(busy_programs())
        if self.where.jobs > 1:
            busy.append(f"{self.where.jobs} tries at a time (--jobs 1 is quieter)")
        if busy:
            self.print_line(
                f"latency is measured in turns with the dense network, but beside "
                f"{', '.join(busy)}: intervals are wide"
            )

    # --- Work ---

    def _work(self, network: SearchedNetwork, space: Space, state: SearchState) -> None:
        plan, search = self.plan, self.plan.params.search
        if "sensitivity" in search.layers:
            network.record = self._record()

        with self._runner() as runner:
            self._try(network, space, state, runner)
            if network.record is None and state.out_of_reach:
                network.record = self._record()
            if state.ended == STOPPED:
                return

            final_round = FinalRound(
                objective=plan.request.objective,
                max_drop=plan.request.max_drop_share,
                seeds=plan.params.seeds,
                search=search,
                runner=runner,
                make_params=partial(network.params_of, plan.request.objective),
                make_job=plan.job,
                save=self._save,
                print_line=self.print_line,
                feasible=space.feasible,
            )
            final_round.run(state)
        self._measure_latency(state)

    def _try(
        self, network: SearchedNetwork, space: Space, state: SearchState, runner: Runner
    ) -> None:
        plan = self.plan
        objective = plan.request.objective

        def make_job(point: Point, epochs: int, seeds: list[int], number: int) -> Job:
            label = f"try {number + 1}, {epochs} epochs, seeds {', '.join(map(str, seeds))}"
            params = network.params_of(objective, point, epochs, seeds, "validation")
            return plan.job(params, label)

        seconds = None
        if self.within_s is not None:
            seconds = (1 - FINAL_SHARE) * self.within_s
        speedup = None
        if plan.request.minimise == "latency":
            speedup = speedup_of(plan)

        engine = Engine(
            space=space,
            objective=objective,
            max_drop=plan.request.max_drop_share,
            seeds=plan.params.seeds,
            learning_rate=plan.params.finetune.learning_rate,
            state=state,
            runner=runner,
            make_job=make_job,
            save=self._save,
            print_line=self.print_line,
            limits=Limits(seconds, (plan.folder / STOP_FILE).exists),
            speedup=speedup,
        )
        engine.run()

    def _save(self, state: SearchState) -> None:
        state.save(self.plan.folder)

    def _runner(self) -> AbstractContextManager[Runner]:
        where = self.where
        if where.address is None:
            return local_runner(self.plan, where.jobs)
        return cluster_runner(
            self.plan,
            where.address,
            where.git_remote,
            where.cpus_per_task,
            where.gpus_per_task,
        )

    # --- Sensitivity ---

    def _record(self) -> dict[str, Any]:
        """The curves of the dense networks: stored, of this folder, or measured in a clone.

        They are kept with the search, whose tries rest on them.
        """
        stored = self._stored_record()
        if stored is not None:
            return stored

        path = self.plan.folder / SENSITIVITY_FILE
        try:
            read_own_record(self.plan.params, self.plan.root / BASE, self.plan.root / RECORD)
            write(path, (self.plan.root / RECORD).read_bytes())
        except InputError:
            self.print_line("measuring the sensitivity of every layer ...")
            self._measure_sensitivity(path)

        record = self._stored_record()
        assert record is not None, f"{path} was written"
        return record

    def _stored_record(self) -> dict[str, Any] | None:
        path = self.plan.folder / SENSITIVITY_FILE
        if not path.exists():
            return None
        record: dict[str, Any] = read_record(path, Sensitivity)
        return record

    def _measure_sensitivity(self, path: Path) -> None:
        """Run the stage in a clone of the commit.

        Raises:
            InputError: if it fails, with the end of its log.
        """

        def work(job: Job, clone: Checkout, dvc: Dvc) -> str:
            refresh_changed_inputs(job, clone, dvc)
            dvc("repro", SENSITIVITY_TARGET)
            write(path, (clone.folder / RECORD).read_bytes())
            return "measured"

        job = replace(self.plan.job(self.plan.base, "sensitivity"), name="search-sensitivity")
        with local_runner(self.plan, 1, work) as runner:
            runner.submit(job)
            _, failure = runner.wait()
        if failure:
            raise InputError(["measuring the sensitivity failed:", *failure.splitlines()])

    # --- Latency of the networks that were found ---

    def _measure_latency(self, state: SearchState) -> None:
        """Add to every candidate how much faster it is, measured now."""
        speedup = speedup_of(self.plan)
        finals: list[Final] = []

        for final in state.finals:
            measurement = final.measurement
            if final.role == "candidate" and measurement is not None:
                try:
                    faster = speedup(final.name)
                except InputError as error:
                    self.print_line(error.problems[0])
                else:
                    final = replace(final, measurement=replace(measurement, faster=faster))
            finals.append(final)

        state.finals = finals
        self._save(state)


def _is_done(state: SearchState) -> bool:
    """Whether nothing is left to do: the test split was asked, or there is nothing to ask it."""
    all_tested = bool(state.tested) and len(state.tested) == len(state.candidates)
    return state.out_of_reach or all_tested
