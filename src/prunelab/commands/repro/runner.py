"""The run itself: a schedule, a crew that works it off, and what became of every stage."""

import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunelab.commands import gpus
from prunelab.commands.repro.cores import core_shares, cores, pin
from prunelab.commands.repro.display import Display
from prunelab.commands.repro.pool import WorkerPool
from prunelab.commands.repro.scheduler import Schedule
from prunelab.project.dvc_graph import Pipeline, lock_order, opened, pipeline, up_to_date
from prunelab.project.recovery import clear_stale_locks

LOGS = Path(".prunelab/logs")
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """Somebody wants the run to end; `args` holds the signal's number."""


@dataclass
class Outcome:
    """Stages by what became of them; for a failed one its log, for a skipped one the stage that failed."""

    unchanged: list[str] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    failed: dict[str, Path] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def reproduce(
    root: Path, targets: Sequence[str], jobs: int, tell: Callable[[str], None]
) -> Outcome:
    """Bring the targets, or all of dvc.yaml, up to date, `jobs` stages at a time, as `dvc repro` would.

    A failure stops only what depends on it.

    Raises:
        InputError: for targets that are no stages, or a pipeline that DVC cannot read.
        Stopped: within `stoppable`, on Ctrl-C, SIGTERM or SIGHUP, once everything that was started has ended.
    """
    with opened(root) as repo:
        plan = pipeline(repo, targets)
        clear_stale_locks(repo)
        outcome = Outcome(unchanged=up_to_date(repo, plan))
        if outcome.unchanged:
            tell(f"{len(outcome.unchanged)} of {len(plan.stages)} stages are up to date")
        if len(outcome.unchanged) < len(plan.stages):
            _Run(root, plan, jobs, outcome).work_off(repo)
        return outcome


class _Run:
    def __init__(self, root: Path, plan: Pipeline, jobs: int, outcome: Outcome):
        left = {
            name: needed.difference(outcome.unchanged)
            for name, needed in plan.needs.items()
            if name not in outcome.unchanged
        }
        self.root, self.alone, self.outcome = root, plan.alone, outcome
        self.order = lock_order(root, plan)
        self.schedule = Schedule(left, jobs, plan.alone)
        self.crew = WorkerPool(root, jobs)
        self.display = Display(len(left))
        self.cores, self.variables = cores(), gpus.worker_environments(jobs)

    def work_off(self, repo: Any) -> None:
        (self.root / LOGS).mkdir(parents=True, exist_ok=True)
        try:
            while not self.schedule.over:
                started = self.schedule.begin()
                for name in started:
                    self._start(name)
                if started:
                    self._share_cores()
                ended = self.crew.wait(timeout_s=1)
                for name, how in ended:
                    self._end(name, how)
                if ended:
                    self._share_cores()
                self.display.refresh()
        finally:
            self.crew.stop()
            clear_stale_locks(repo)
            self.display.close()

    def log(self, name: str) -> Path:
        return LOGS / f"{name.replace('/', '_')}.log"

    def _start(self, name: str) -> None:
        number = self.crew.free()
        variables = {} if name in self.alone else self.variables[number]
        where = f" on GPU {variables[gpus.VISIBLE]}" if gpus.VISIBLE in variables else ""
        log = self.root / self.log(name)
        log.write_bytes(b"")  # what an earlier run left is no news
        self.crew.give(number, name, log, variables, self.order)
        self.display.started(name, where)

    def _share_cores(self) -> None:
        """Every running stage has its share of the cores, and one that is by itself has all of them."""
        busy = self.crew.busy()
        for (_, process), its in zip(
            sorted(busy.items()), core_shares(self.cores, len(busy)), strict=True
        ):
            if its:
                pin(process, its)

    def _end(self, name: str, how: str) -> None:
        log = self.root / self.log(name)
        if how in ("failed", "killed"):
            if how == "killed":
                with log.open("a") as file:
                    file.write("its process was killed, as happens where memory runs out\n")
            self.outcome.failed[name] = self.log(name)
            skipped = self.schedule.failed(name)
            self.outcome.skipped |= dict.fromkeys(skipped, name)
            self.display.ended(
                name, "FAILED", f"; what does not need it goes on ({self.log(name)})"
            )
            self.display.skipped(skipped)
            return
        self.schedule.done(name)
        (self.outcome.made if how == "made" else self.outcome.unchanged).append(name)
        ran = re.search(r"^Running stage '", log.read_text(errors="replace"), re.MULTILINE)
        told = "unchanged" if how == "unchanged" else "done" if ran else "out of DVC's cache"
        self.display.ended(name, told)


@contextmanager
def stoppable() -> Iterator[None]:
    """Within, the signals by which people and machines end programs raise Stopped."""

    def stop(number: int, _: object) -> None:
        for ending in ENDINGS:
            signal.signal(ending, signal.SIG_IGN)  # once is enough: what was started is being ended
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in ENDINGS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
