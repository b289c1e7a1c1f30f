"""Run jobs on this machine, several at a time. Each becomes one DVC experiment."""

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
from typing import Any, TextIO

from prunelab.commands.common import last_lines
from prunelab.commands.gpus import worker_environments
from prunelab.commands.studies.jobs import Job, PrintLine, first_job_per_dense, pending_jobs
from prunelab.config.params import Params
from prunelab.core.errors import InputError
from prunelab.core.files import read_json
from prunelab.project.clones import FOLDER, Checkout, DvcCommandError, cache_folder, checkout
from prunelab.project.git import git
from prunelab.project.paths import METRICS, RAW, TARGET
from prunelab.warm.control import loaded_process

Dvc = Callable[..., None]  # runs a DVC command in the clone of a job
Work = Callable[[Job, Checkout, Dvc], str]  # does a job in its clone and describes the result
Environment = dict[str, str]


@dataclass
class LocalRun:
    """Jobs that run on this machine.

    `slots` is the number of clones that may be in use at a time. `gpu_environments` holds the
    environment variables that give a job its GPU; None leaves all GPUs to every job. `failures`
    collects the end of the log of every failed job, by its label. `variables` are added to the
    environment of all jobs.
    """

    root: Path
    revision: str
    cache: Path
    slots: int
    print_line: PrintLine
    work: Work
    gpu_environments: SimpleQueue[Environment] | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    stopped: threading.Event = field(default_factory=threading.Event)
    processes: set[subprocess.Popen[str]] = field(default_factory=set)

    def run_job(self, job: Job, position: str) -> None:
        """Do one job and note its failure, so that the other jobs go on.

        `position` is the job's place among all, such as 2/6, for the lines printed.
        """
        if self.stopped.is_set():
            return
        log_path = self.root / FOLDER / "logs" / f"{job.name}.log"
        log_path.parent.mkdir(parents=True, exist_ok=True)
        title = f"[{position}] {job.label}"

        start = time.monotonic()
        try:
            result = self._run_in_clone(job, title, log_path)
        except (DvcCommandError, InputError, OSError) as error:
            if not self.stopped.is_set():
                self.failures[job.label] = _describe_failure(log_path, error)
                log_name = log_path.relative_to(self.root)
                self.print_line(f"{title}: FAILED, the others go on ({log_name})")
        else:
            self.print_line(f"{title}: {result} after {time.monotonic() - start:,.0f} s")

    def _run_in_clone(self, job: Job, title: str, log_path: Path) -> str:
        """Do one job in a free clone, and return the description of its result."""
        with (
            self._reserved_gpu() as variables,
            checkout(self.root, job.name, self.slots) as clone,
            log_path.open("w") as log,
        ):
            self.print_line(f"{title}: started")
            clone.start(job.name, self.revision, job.params, self.cache)

            dvc = self._dvc(clone, title, log, {**self.variables, **variables})
            return self.work(job, clone, dvc)

    def _dvc(self, clone: Checkout, title: str, log: TextIO, variables: Environment) -> Dvc:
        """Return a function that runs a DVC command in the clone and prints the stages it runs."""
        return partial(
            self._run_dvc,
            clone,
            log=log,
            on_line=partial(self._print_stage, title),
            variables=variables,
        )

    def _run_dvc(self, clone: Checkout, *arguments: str, **options: Any) -> None:
        """Run a DVC command, unless the run was stopped since the last one.

        A job may be between two of them then, with a clone or with hashes of the user's own files.
        """
        if self.stopped.is_set():
            raise DvcCommandError("stopped")
        clone.dvc(*arguments, processes=self.processes, **options)

    def _print_stage(self, title: str, line: str) -> None:
        stage = re.match(r"Running stage '([^']+)'", line)
        if stage:
            self.print_line(f"{title}: {stage[1]}")

    @contextmanager
    def _reserved_gpu(self) -> Iterator[Environment]:
        """Yield the environment variables of a GPU that no other job has meanwhile."""
        if self.gpu_environments is None:
            yield {}
            return

        variables = self.gpu_environments.get()
        try:
            yield variables
        finally:
            self.gpu_environments.put(variables)

    def stop(self) -> None:
        """Start no more jobs and end the running ones."""
        self.stopped.set()
        for process in list(self.processes):
            process.terminate()


def gpu_queue(environments: Sequence[Environment]) -> SimpleQueue[Environment]:
    """Return a queue with the environment variables of each worker."""
    queue: SimpleQueue[Environment] = SimpleQueue()
    for variables in environments:
        queue.put(variables)
    return queue


def measure(title: str, job: Job, clone: Checkout, dvc: Dvc) -> str:
    """Bring the target up to date, save it as an experiment, and return its accuracy as text."""
    refresh_changed_inputs(job, clone, dvc)
    dvc("repro", TARGET)
    clone.keep_environment()
    clone.save(job.name, f"{title}: {job.label}", dvc)
    return f"accuracy {read_json(clone.folder / METRICS)['accuracy']:.2%}"


def refresh_changed_inputs(job: Job, clone: Checkout, dvc: Dvc) -> None:
    """Repeat the stages whose outputs were made from other content of the user's own files.

    DVC tracks the names of those files alone, so its cache may hold outputs of older content.
    """
    if not job.input_hashes:
        return
    from prunelab.commands.check.inputs import data_changed, weights_changed
    from prunelab.project.paths import BASE

    params = Params.model_validate(job.params)
    if "data.source" in job.input_hashes:
        dvc("repro", "prepare")
        if data_changed(params, clone.folder / RAW):
            dvc("repro", "--force", "--single-item", "prepare")

    if "weights" in job.input_hashes:
        dvc("repro", "train_base")
        if weights_changed(params, clone.folder / BASE):
            dvc("repro", "--force", "--single-item", "train_base")


def _describe_failure(log: Path, error: Exception) -> str:
    """Return the end of the log, and the error unless the log shows it."""
    log_end = last_lines(log)
    log_shows_error = log_end and isinstance(error, DvcCommandError)
    if log_shows_error:
        return log_end
    return f"{log_end}\n{error}".strip()


@contextmanager
def local_run(
    root: Path, revision: str, at_once: int, print_line: PrintLine, work: Work
) -> Iterator[tuple[LocalRun, ThreadPoolExecutor]]:
    """Yield what runs jobs of a commit, and the threads to run them in, `at_once` at a time.

    When the body ends early, running jobs are ended, and no others start.
    """
    environments = worker_environments(at_once)
    with (
        loaded_process(root / FOLDER / "logs") as variables,
        ThreadPoolExecutor(at_once) as pool,
    ):
        run = LocalRun(
            root=root,
            revision=revision,
            cache=cache_folder(root),
            slots=at_once,
            print_line=print_line,
            work=work,
            gpu_environments=gpu_queue(environments),
            variables=variables,
        )
        try:
            yield run, pool
        except BaseException:
            run.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def run_jobs(
    root: Path, title: str, jobs: Sequence[Job], *, at_once: int, print_line: PrintLine
) -> Mapping[str, str]:
    """Run the jobs that the code of the last commit has not measured yet.

    Several jobs run `at_once`. One job of every dense network then runs first, so that the others
    find that network in DVC's cache.

    Returns:
        The end of the log of every job that failed, by the job's label.
    """
    revision = git(root, "rev-parse", "HEAD").strip()
    pending = pending_jobs(root, jobs, revision, print_line)
    if not pending:
        return {}

    positions = job_positions(pending)
    with local_run(root, revision, at_once, print_line, partial(measure, title)) as (run, pool):
        for wave in _waves(pending, at_once):
            tasks = [pool.submit(run.run_job, job, positions[job.name]) for job in wave]
            for task in tasks:
                task.result()

    return run.failures


def job_positions(jobs: Sequence[Job]) -> dict[str, str]:
    """Return the place of every job among all, such as 2/6, by the name of its experiment."""
    return {job.name: f"{number}/{len(jobs)}" for number, job in enumerate(jobs, start=1)}


def _waves(jobs: Sequence[Job], at_once: int) -> list[list[Job]]:
    """Split jobs into those that run first and those that wait for the dense networks."""
    if at_once == 1:
        return [list(jobs)]

    first = {job.name for job in first_job_per_dense(jobs).values()}
    return [
        [job for job in jobs if job.name in first],
        [job for job in jobs if job.name not in first],
    ]
