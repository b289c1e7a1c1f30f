"""What runs the jobs of a search: forked processes here, or a Ray cluster."""

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from prunelab.commands.search.drop_error import error_from_details
from prunelab.commands.search.plan import NAME, Plan
from prunelab.commands.search.records import Measurement
from prunelab.commands.studies.jobs import Job, measured_commit
from prunelab.commands.studies.local import LocalRun, Work, local_run, measure
from prunelab.core.errors import InputError
from prunelab.core.files import parse_json
from prunelab.core.metrics_files import details_file
from prunelab.project.experiments import experiments
from prunelab.project.git import show
from prunelab.project.metrics import parse_mapping, read_metrics
from prunelab.project.paths import DENSE_METRICS, METRICS

COSTS = ("macs", "params", "params_nonzero", "size_compressed_bytes")


class Runner(Protocol):
    """Runs jobs, up to `width` at a time."""

    width: int

    def measured(self, job: Job) -> Measurement | None:
        """What the job measured, None if it has not run to its end."""

    def submit(self, job: Job) -> None:
        """Begin a job as soon as there is room."""

    def wait(self) -> tuple[Job, str | None]:
        """A job that has ended since, and the end of its log if it failed."""


def read_measurement(plan: Plan, job: Job) -> Measurement | None:
    """The measurement in the experiment of a job that the search's code made, if there is one."""
    commits = [
        experiment.commit for experiment in experiments(plan.root) if experiment.name == job.name
    ]
    commit = measured_commit(plan.root, commits, plan.code)
    if commit is None:
        return None

    def read(path: Path) -> str:
        return show(plan.root, commit, path)

    metrics, dense = read_metrics(METRICS, read), read_metrics(DENSE_METRICS, read)
    details_path = details_file(METRICS)
    details = parse_mapping(details_path, read(details_path), parse_json)
    return Measurement(
        accuracy=metrics["accuracy"],
        accuracy_ci95=metrics["accuracy_ci95"],
        drop=metrics["accuracy_drop"],
        drop_ci95=metrics["accuracy_drop_ci95"],
        drop_error=error_from_details(metrics["accuracy_drop_ci95"], details),
        costs={key: metrics[key] for key in COSTS},
        dense_costs={key: dense[key] for key in COSTS},
    )


@dataclass
class LocalRunner:
    """Jobs in clones on this machine, their stages in forks of one loaded process.

    Of jobs that need the same dense network, one runs first, and the others find it in DVC's cache.
    """

    plan: Plan
    width: int
    run: LocalRun
    pool: ThreadPoolExecutor
    _futures: dict[Future[None], Job] = field(default_factory=dict)
    _dense: dict[str, threading.Event] = field(default_factory=dict)
    _count: int = 0

    def measured(self, job: Job) -> Measurement | None:
        return read_measurement(self.plan, job)

    def submit(self, job: Job) -> None:
        self._count += 1
        is_first = job.dense_key not in self._dense
        ready = self._dense.setdefault(job.dense_key, threading.Event())
        task = partial(self._run, job, ready, is_first, str(self._count))
        self._futures[self.pool.submit(task)] = job

    def _run(self, job: Job, ready: threading.Event, is_first: bool, position: str) -> None:
        if not is_first:
            ready.wait()
        try:
            self.run.run_job(job, position)
        finally:
            ready.set()

    def wait(self) -> tuple[Job, str | None]:
        done, _ = wait(self._futures, return_when=FIRST_COMPLETED)
        # In the order in which they were begun, so that one job at a time is the same every time.
        future = next(future for future in self._futures if future in done)
        job = self._futures.pop(future)
        future.result()
        return job, self.run.failures.pop(job.label, None)

    def stop(self) -> None:
        """End running jobs, and let those that wait for a dense network end without a start."""
        self.run.stop()
        for ready in self._dense.values():
            ready.set()


@contextmanager
def local_runner(plan: Plan, width: int, work: Work | None = None) -> Iterator[LocalRunner]:
    """Yield a runner on this machine; `work` does a job in its clone, by default it measures it.

    When the body ends early, running jobs are ended.
    """
    work = work or partial(measure, NAME)
    with local_run(plan.root, plan.revision, width, lambda line: None, work) as (run, pool):
        runner = LocalRunner(plan, width, run, pool)
        try:
            yield runner
        except BaseException:
            runner.stop()
            raise


@dataclass
class ClusterRunner:
    """Jobs as tasks of a Ray cluster; the dense network of a job is a task before it."""

    plan: Plan
    width: int
    ray: Any
    task: Any  # node.run_job as a remote function of Ray
    spec: Mapping[str, Any]
    url: str
    cpus: float
    gpus: float
    _running: dict[Any, tuple[str, Job]] = field(default_factory=dict)
    _waiting: dict[str, list[Job]] = field(default_factory=dict)  # by dense network
    _dense: dict[str, str | None] = field(default_factory=dict)  # failures of dense networks
    _ended: list[tuple[Job, str | None]] = field(default_factory=list)
    _count: int = 0

    def measured(self, job: Job) -> Measurement | None:
        from prunelab.commands.sweep.ray.remotes import fetch_experiments

        measurement = read_measurement(self.plan, job)
        if measurement is None:
            fetch_experiments(self.plan.root, self.url, [job.name])
            measurement = read_measurement(self.plan, job)
        return measurement

    def submit(self, job: Job) -> None:
        from prunelab.commands.sweep.ray.node_job import DENSE, SETTING

        if job.dense_key in self._dense:
            failure = self._dense[job.dense_key]
            if failure:
                self._ended.append((job, failure))
            else:
                self._start(SETTING, job)
            return

        waiting = self._waiting.setdefault(job.dense_key, [])
        waiting.append(job)
        if len(waiting) == 1:
            label, name = f"dense network ({job.params['model']})", f"dense-{job.dense_key}"
            dense = Job(label, name, job.params, job.input_hashes, job.dense_key)
            self._start(DENSE, dense)

    def _start(self, kind: str, job: Job) -> None:
        self._count += 1
        spec = {**self.spec, "kind": kind, "position": str(self._count), "job": asdict(job)}
        handle = self.task.options(num_cpus=self.cpus, num_gpus=self.gpus).remote(spec)
        self._running[handle] = (kind, job)

    def wait(self) -> tuple[Job, str | None]:
        from prunelab.commands.sweep.ray.node_job import SETTING

        while not self._ended:
            (done,), _ = self.ray.wait(list(self._running), num_returns=1)
            kind, job = self._running.pop(done)
            try:
                _, failure = self.ray.get(done)
            except self.ray.exceptions.RayError as error:
                failure = str(error)

            if kind == SETTING:
                self._ended.append((job, failure))
                continue
            self._dense[job.dense_key] = failure
            for waiting in self._waiting.pop(job.dense_key):
                self.submit(waiting)
        return self._ended.pop(0)


@contextmanager
def cluster_runner(
    plan: Plan, address: str, remote: str, cpus: float | None, gpus: float | None
) -> Iterator[ClusterRunner]:
    """Yield a runner on a Ray cluster, as wide as the cluster has room.

    Raises:
        InputError: if the remotes, Ray or its nodes do not have what the work needs.
    """
    from prunelab.commands.sweep.ray import node
    from prunelab.commands.sweep.ray.driver import (
        MAX_RETRIES,
        check_nodes,
        connected,
        sweep_spec,
    )
    from prunelab.commands.sweep.ray.remotes import check_remotes

    url = check_remotes(plan.root, remote, plan.revision)
    with connected(address) as ray:
        ray.cloudpickle.register_pickle_by_value(node)
        spec = sweep_spec(plan.root, url, plan.revision, NAME)
        check_nodes(ray, spec)

        total = ray.cluster_resources()
        runtime = plan.params.runtime
        cpus = runtime.threads if cpus is None else cpus
        if gpus is None:
            gpus = float(total.get("GPU", 0) >= 1)
        if runtime.device == "cpu":
            gpus = 0.0
        width = _room(total.get("CPU", 0), cpus)
        if gpus:
            width = min(width, _room(total.get("GPU", 0), gpus))

        task = ray.remote(max_retries=MAX_RETRIES)(node.run_job)
        yield ClusterRunner(plan, width, ray, task, spec, url, cpus, gpus)


def _room(total: float, each: float) -> int:
    if not each:
        return 1
    if total < each:
        raise InputError(
            f"--address: the cluster has {total:g} CPUs or GPUs, and a try needs {each:g}; "
            "see --cpus-per-task and --gpus-per-task"
        )
    return int(total / each)
