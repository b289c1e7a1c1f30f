"""Run jobs on this machine, some at a time, each as one DVC experiment."""

import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from prunelab.commands.common import last_lines
from prunelab.commands.gpus import worker_environments
from prunelab.commands.studies.jobs import Job, one_of_each_dense, unmeasured
from prunelab.config.params import Params
from prunelab.core.errors import InputError
from prunelab.core.files import read_json
from prunelab.project.clones import FOLDER, Checkout, Failed, cache_folder, checkout
from prunelab.project.git import git
from prunelab.project.paths import METRICS, RAW, TARGET

DVC = Callable[..., None]
Work = Callable[
    [Job, Checkout, DVC], str
]  # what to do with a job in its checkout; returns what came out, in words


@dataclass
class Run:
    """Work under way: `failures` holds the last lines of the log of every job that failed, by its label."""

    root: Path
    revision: str
    cache: Path
    slots: int
    tell: Callable[[str], None]
    work: Work
    failures: dict[str, str] = field(default_factory=dict)
    stopped: threading.Event = field(default_factory=threading.Event)
    started: set[subprocess.Popen] = field(default_factory=set)
    free: SimpleQueue[dict[str, str]] | None = (
        None  # environments that hand a GPU each to jobs, put back when done
    )

    def job(self, job: Job, place: str) -> None:
        """Do one job; whatever goes wrong with it is noted, so that the others go on."""
        if self.stopped.is_set():
            return
        log_path = self.root / FOLDER / "logs" / f"{job.name}.log"
        log_path.parent.mkdir(parents=True, exist_ok=True)
        begun = time.monotonic()
        try:
            with (
                self._gpu() as variables,
                checkout(self.root, job.name, self.slots) as clone,
                log_path.open("w") as log,
            ):
                self.tell(f"[{place}] {job.label}: started")
                clone.start(job.name, self.revision, job.params, self.cache)
                said = partial(self._stage, place, job.label)
                dvc = partial(
                    clone.dvc, log=log, said=said, started=self.started, variables=variables
                )
                told = self.work(job, clone, dvc)
            self.tell(f"[{place}] {job.label}: {told} after {time.monotonic() - begun:,.0f} s")
        except (Failed, InputError, OSError) as error:
            if not self.stopped.is_set():
                self.failures[job.label] = _failure(log_path, error)
                self.tell(
                    f"[{place}] {job.label}: FAILED, the others go on ({log_path.relative_to(self.root)})"
                )

    @contextmanager
    def _gpu(self) -> Iterator[dict[str, str]]:
        variables = self.free.get() if self.free else {}
        try:
            yield variables
        finally:
            if self.free:
                self.free.put(variables)

    def _stage(self, place: str, label: str, line: str) -> None:
        if found := re.match(r"Running stage '([^']+)'", line):
            self.tell(f"[{place}] {label}: {found[1]}")

    def stop(self) -> None:
        self.stopped.set()
        for process in list(self.started):
            process.terminate()


def handed_out(workers: int) -> SimpleQueue[dict[str, str]]:
    free: SimpleQueue[dict[str, str]] = SimpleQueue()
    for variables in worker_environments(workers):
        free.put(variables)
    return free


def measure(title: str, job: Job, clone: Checkout, dvc: DVC) -> str:
    """Bring the target up to date and make an experiment of it."""
    renew(job, clone, dvc)
    dvc("repro", TARGET)
    clone.keep_environment()
    clone.save(job.name, f"{title}: {job.label}", dvc)
    return f"accuracy {read_json(clone.folder / METRICS)['accuracy']:.2%}"


def renew(job: Job, clone: Checkout, dvc: DVC) -> None:
    """Do the stages again whose outputs, kept here or in DVC's cache, were made from other content of the same name."""
    if not job.held:
        return
    from prunelab.commands.check import data_changed, weights_changed
    from prunelab.project.paths import BASE

    parsed = Params.model_validate(job.params)
    for key, stage, changed in (
        ("data.source", "prepare", partial(data_changed, parsed, clone.folder / RAW)),
        ("weights", "train_base", partial(weights_changed, parsed, clone.folder / BASE)),
    ):
        if key in job.held:
            dvc("repro", stage)
            if changed():
                dvc("repro", "--force", "--single-item", stage)


def _failure(log: Path, error: Exception) -> str:
    """The end of the log, and what went wrong where that is no command whose last words stand there."""
    told = last_lines(log)
    return told if told and isinstance(error, Failed) else f"{told}\n{error}".strip()


def run_jobs(
    root: Path, title: str, jobs: Sequence[Job], *, at_once: int, tell: Callable[[str], None]
) -> Mapping[str, str]:
    """Run what has not been measured by the last commit's code; return the failures, log's end by the job's label.

    With several at once, one job of every dense network goes first: the others then find it in DVC's cache.
    """
    revision = git(root, "rev-parse", "HEAD").strip()
    pending = unmeasured(root, jobs, revision, tell)
    if not pending:
        return {}
    run = Run(
        root,
        revision,
        cache_folder(root),
        at_once,
        tell,
        partial(measure, title),
        free=handed_out(at_once),
    )
    first = {job.name for job in one_of_each_dense(pending).values()} if at_once > 1 else set()
    place = {job.name: f"{number}/{len(pending)}" for number, job in enumerate(pending, start=1)}
    with ThreadPoolExecutor(at_once) as pool:
        try:
            for wave in (
                [job for job in pending if job.name in first],
                [job for job in pending if job.name not in first],
            ):
                for task in [pool.submit(run.job, job, place[job.name]) for job in wave]:
                    task.result()
        except BaseException:
            run.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return run.failures
