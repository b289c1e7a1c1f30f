"""The run itself: a graph of stages, workers that reproduce them, and the result of each stage."""

import re
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunelab.commands import gpus
from prunelab.commands.repro.display import Display
from prunelab.commands.repro.pool import StageResult, StageTask, WorkerPool
from prunelab.commands.repro.scheduler import TaskGraph
from prunelab.commands.repro.time_left import Durations
from prunelab.core.cores import available_cores, core_shares, pin
from prunelab.project.dvc_graph import (
    Pipeline,
    load_pipeline,
    lock_order,
    open_repo,
    up_to_date,
)
from prunelab.project.recovery import clear_stale_locks
from prunelab.warm.control import loaded_process

LOGS = Path(".prunelab/logs")
DURATIONS = Path(".prunelab/durations.json")
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
REFRESH_INTERVAL_S = 1.0
STARTED_AHEAD = 2  # workers: the first stages of a study are few, as all others rest on them


class Stopped(BaseException):
    """The run was stopped by a signal, whose number is in `args`."""


@dataclass
class ReproResult:
    """All stages by result.

    `failed` holds the log of each stage, `skipped` the failed stage that each stage needs.
    """

    unchanged: list[str] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    failed: dict[str, Path] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def reproduce(
    root: Path,
    targets: Sequence[str],
    jobs: int,
    print_line: Callable[[str], None],
    *,
    check: Callable[[], None] = lambda: None,
    loaded: Mapping[str, str] | None = None,
) -> ReproResult:
    """Bring the targets, or all of dvc.yaml, up to date, as `dvc repro` does.

    Up to `jobs` stages run at a time, in forks of a process that has loaded the packages. A failure
    stops only the stages that depend on it.

    Args:
        root: the folder of the project.
        targets: stages or groups of them.
        jobs: how many stages run at a time.
        print_line: shows a line to the user.
        check: is called before any stage runs, and raises InputError if none may.
        loaded: the variables by which stages find the process; it is started here if this is None.

    Raises:
        InputError: for targets that are not stages, or a pipeline that DVC cannot read.
        Stopped: within `stoppable`, on Ctrl-C, SIGTERM or SIGHUP, once everything that was started
            has ended.
    """
    with open_repo(root) as repo:
        pipeline = load_pipeline(repo, targets)
        clear_stale_locks(repo)
        result = ReproResult(unchanged=up_to_date(repo, pipeline))
        if len(result.unchanged) == len(pipeline.stages):
            check()
            print_line(_up_to_date_line(result, pipeline))
            return result

        environments = gpus.worker_environments(jobs)
        with _loaded(root, loaded) as variables:
            run = _Run(root, pipeline, result, environments, variables)
            try:
                # They load DVC while the check goes on.
                run.pool.start_ahead(min(STARTED_AHEAD, run.stage_count))
                check()
                if result.unchanged:
                    print_line(_up_to_date_line(result, pipeline))
                run.run_stages()
            finally:
                run.end(repo)
        return result


def _loaded(
    root: Path, loaded: Mapping[str, str] | None
) -> AbstractContextManager[Mapping[str, str]]:
    if loaded is not None:
        return nullcontext(loaded)
    return loaded_process(root / LOGS)


def _up_to_date_line(result: ReproResult, pipeline: Pipeline) -> str:
    return f"{len(result.unchanged)} of {len(pipeline.stages)} stages are up to date"


class _Run:
    """Runs the stages of a pipeline that are not in `result` yet, and adds them to it.

    There is a worker for each of `environments`: the variables that it adds to `variables`.
    """

    def __init__(
        self,
        root: Path,
        pipeline: Pipeline,
        result: ReproResult,
        environments: Sequence[Mapping[str, str]],
        variables: Mapping[str, str],
    ) -> None:
        needs = {}
        for name, needed in pipeline.needs.items():
            if name not in result.unchanged:
                needs[name] = needed.difference(result.unchanged)

        self.root = root
        self.stage_count = len(needs)
        self.alone = pipeline.alone
        self.result = result

        self.lock_order = lock_order(root, pipeline)
        jobs = len(environments)
        self.graph = TaskGraph(needs, jobs, pipeline.alone)
        self.pool = WorkerPool(root, jobs, variables)
        self.durations = Durations.read(root / DURATIONS)
        self.display = Display(needs, self.durations, jobs, pipeline.alone)
        self.cores = available_cores()
        self.worker_variables = environments

    def run_stages(self) -> None:
        """Run all stages."""
        (self.root / LOGS).mkdir(parents=True, exist_ok=True)

        while not self.graph.finished:
            started = self.graph.start_ready()
            for name in started:
                self._start(name)
            if started:
                self._share_cores()

            ended = self.pool.wait(REFRESH_INTERVAL_S)
            for name, stage_result in ended:
                self._note_result(name, stage_result)
            if ended:
                self._share_cores()

            self.display.refresh()

    def end(self, repo: Any) -> None:
        """Leave no worker and no stale lock."""
        self.pool.stop()
        clear_stale_locks(repo)
        self.display.close()
        with suppress(OSError):  # they serve an estimate only
            self.durations.write(self.root / DURATIONS)

    def _start(self, name: str) -> None:
        number = self.pool.idle_worker()
        variables: Mapping[str, str] = {}
        if name not in self.alone:
            variables = self.worker_variables[number]

        log = self.root / _log_path(name)
        log.write_bytes(b"")  # without the output of an earlier run
        self.pool.submit(number, StageTask(name, log, variables, self.lock_order))

        detail = ""
        if gpus.VISIBLE in variables:
            detail = f" on GPU {variables[gpus.VISIBLE]}"
        self.display.started(name, detail)

    def _share_cores(self) -> None:
        """Divide the cores among the running stages. A stage that runs alone gets all of them."""
        pids = [pid for _, pid in sorted(self.pool.busy_pids().items())]
        for pid, share in zip(pids, core_shares(self.cores, len(pids)), strict=True):
            if share:
                pin(pid, share)

    def _note_result(self, name: str, stage_result: StageResult) -> None:
        log = self.root / _log_path(name)
        if stage_result is StageResult.killed:
            with log.open("a") as file:
                file.write("the process was killed, as happens if memory runs out\n")

        if stage_result in (StageResult.failed, StageResult.killed):
            self._note_failure(name)
            return

        self.graph.mark_done(name)
        if stage_result is StageResult.unchanged:
            self.result.unchanged.append(name)
            self.display.ended(name, "unchanged")
        else:
            self.result.made.append(name)
            command_ran = re.search(r"(?m)^Running stage '", log.read_text(errors="replace"))
            if command_ran:
                self.display.ended(name, "done")
            else:
                self.display.ended(name, "out of DVC's cache")

    def _note_failure(self, name: str) -> None:
        skipped = self.graph.mark_failed(name)
        self.result.failed[name] = _log_path(name)
        self.result.skipped.update(dict.fromkeys(skipped, name))

        detail = f"; stages that do not need it go on ({_log_path(name)})"
        self.display.ended(name, "FAILED", detail)
        self.display.skipped(skipped)


def _log_path(stage: str) -> Path:
    return LOGS / f"{stage.replace('/', '_')}.log"


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise Stopped in the body on any of STOP_SIGNALS that is not ignored, as SIGHUP by nohup."""

    def stop(number: int, _: object) -> None:
        # Further signals must not disturb the clean-up.
        for stop_signal in STOP_SIGNALS:
            signal.signal(stop_signal, signal.SIG_IGN)
        raise Stopped(number)

    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number, handler in handlers.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
