"""Run jobs on a Ray cluster, one task each. No other module imports Ray."""

import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from prunelab.commands.studies.jobs import Job, PrintLine, first_job_per_dense, pending_jobs
from prunelab.commands.studies.local import job_positions
from prunelab.commands.sweep.ray import node
from prunelab.commands.sweep.ray.node_job import DENSE, SETTING
from prunelab.commands.sweep.ray.remotes import check_remotes, fetch_experiments
from prunelab.core.errors import InputError
from prunelab.project.git import git, identity_settings, prefix

MAX_RETRIES = 5  # of a task whose node died
CONNECT_TIMEOUT_S = 20.0
Spec = dict[str, Any]


@dataclass(frozen=True)
class Resources:
    """The CPUs and GPUs of every task.

    None means as many CPUs as the setting has threads, and one GPU if the cluster has any.
    """

    cpus: float | None
    gpus: float | None


def run_on_ray(
    root: Path,
    title: str,
    jobs: Sequence[Job],
    *,
    address: str,
    remote: str,
    resources: Resources,
    print_line: PrintLine,
) -> Mapping[str, str]:
    """Run the jobs that have no experiment here or on the Git remote, and fetch the results.

    Returns:
        The end of the log of every job that failed, by the job's label.

    Raises:
        InputError: with one line per problem of the remotes, Ray or its nodes, before any work
            starts.
    """
    revision = git(root, "rev-parse", "HEAD").strip()
    url = check_remotes(root, remote, revision)
    names = [job.name for job in jobs]
    fetch_experiments(root, url, names)

    pending = pending_jobs(root, jobs, revision, print_line)
    if not pending:
        return {}
    try:
        with connected(address) as ray:
            spec = sweep_spec(root, url, revision, title)
            return run_on_cluster(ray, spec, pending, resources, print_line)
    finally:
        fetch_experiments(root, url, names)


@contextmanager
def connected(address: str) -> Iterator[ModuleType]:
    """Yield Ray, connected to the cluster at `address`.

    The address is `auto`, HOST:PORT, ray://HOST:PORT, or `local` for a cluster on this machine.

    Raises:
        InputError: if Ray is not installed or nothing answers at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # Ray takes different settings for repetitions
    try:
        import ray
    except ImportError:
        raise InputError("--address needs Ray, which is not installed: pip install ray") from None

    where: dict[str, Any] = {"address": address}
    if address == "local":
        where = {"include_dashboard": False}
    try:
        check_reachable(address)
        ray.init(**where, logging_level=logging.ERROR, log_to_driver=True)
    except Exception as error:  # where a node starts too slowly, Ray raises nothing narrower
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"--address {address}: {reason}; valid: auto, local, HOST:PORT, ray://HOST:10001"
        ) from None

    try:
        yield ray
    finally:
        ray.shutdown()


def check_reachable(address: str) -> None:
    """Raise OSError if nothing listens at the address; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()


def sweep_spec(root: Path, url: str, revision: str, title: str) -> Spec:
    """Return what every task must know.

    That is the commit and where it is, the project's folder in it, the name of its committer, and
    the versions of the packages on which results depend.
    """
    from prunelab.runtime.device import FINGERPRINT_PACKAGES

    return {
        "url": url,
        "prefix": str(prefix(root)),
        "revision": revision,
        "title": title,
        "identity": identity_settings(root),
        "versions": node.versions(list(FINGERPRINT_PACKAGES)),
    }


def run_on_cluster(
    ray: ModuleType,
    spec: Spec,
    jobs: Sequence[Job],
    resources: Resources,
    print_line: PrintLine,
) -> Mapping[str, str]:
    """Train every dense network, then measure the settings on it. Ray places each as a task.

    Ray repeats a task on another node if its node dies.

    Returns:
        The end of the log of every job that failed, by the job's label.

    Raises:
        InputError: if a node lacks what the work needs.
    """
    ray.cloudpickle.register_pickle_by_value(node)
    check_nodes(ray, spec)

    gpus = resources.gpus
    if gpus is None:
        gpus = float(ray.cluster_resources().get("GPU", 0) >= 1)
    run = _ClusterRun(
        ray=ray,
        task=ray.remote(max_retries=MAX_RETRIES)(node.run_job),
        spec=spec,
        jobs=jobs,
        resources=Resources(resources.cpus, gpus),
        print_line=print_line,
    )
    run.start_dense_networks()
    while run.running:
        run.finish_one()
    return run.failures


@dataclass
class _ClusterRun:
    """The tasks of a sweep: those that run, and the failures so far."""

    ray: ModuleType
    task: Any  # node.run_job as a remote function of Ray
    spec: Spec
    jobs: Sequence[Job]
    resources: Resources
    print_line: PrintLine
    running: dict[Any, tuple[str, Job]] = field(default_factory=dict)  # kind and job of each task
    failures: dict[str, str] = field(default_factory=dict)
    finished: int = 0  # settings that were measured or failed

    def start_dense_networks(self) -> None:
        """Start a task for every dense network that the settings need."""
        for dense_key, job in first_job_per_dense(self.jobs).items():
            label = f"dense network ({job.params['model']})"
            dense_job = Job(
                label=label,
                name=f"dense-{dense_key}",
                params=job.params,
                input_hashes=job.input_hashes,
                dense_key=dense_key,
            )
            self._start(DENSE, dense_job, DENSE)

    def finish_one(self) -> None:
        """Wait for a task to end; start the settings that waited for it."""
        (done,), _ = self.ray.wait(list(self.running), num_returns=1)
        kind, job = self.running.pop(done)
        try:
            where, failure = self.ray.get(done)
        except self.ray.exceptions.RayError as error:
            where, failure = "Ray", str(error)

        if kind == SETTING:
            self._note_setting(job, where, failure)
        else:
            self._go_on_from_dense(job, where, failure)

    def _note_setting(self, job: Job, where: str, failure: str | None) -> None:
        self.finished += 1
        outcome = "measured"
        if failure:
            outcome = "FAILED"
            self.failures[job.label] = failure
        self.print_line(f"{self.finished} of {len(self.jobs)}: {job.label} {outcome} on {where}")

    def _go_on_from_dense(self, dense_job: Job, where: str, failure: str | None) -> None:
        """Start the settings of a dense network, or note that they failed with it."""
        settings = [job for job in self.jobs if job.dense_key == dense_job.dense_key]
        outcome = "FAILED" if failure else "ready"
        self.print_line(f"{dense_job.label} {outcome} on {where}, for {len(settings)} settings")

        positions = job_positions(self.jobs)
        for job in settings:
            if failure:
                self.finished += 1
                self.failures[job.label] = f"its dense network failed:\n{failure}"
            else:
                self._start(SETTING, job, positions[job.name])

    def _start(self, kind: str, job: Job, position: str) -> None:
        cpus = self.resources.cpus
        if cpus is None:
            cpus = job.params["runtime"]["threads"]
        gpus = self.resources.gpus
        if job.params["runtime"]["device"] == "cpu":
            gpus = 0

        job_spec = {**self.spec, "kind": kind, "position": position, "job": asdict(job)}
        handle = self.task.options(num_cpus=cpus, num_gpus=gpus).remote(job_spec)
        self.running[handle] = (kind, job)


def check_nodes(ray: ModuleType, spec: Spec) -> None:
    """Let every node that has CPUs clone the commit and compare versions.

    Nodes that join later do so at their first task.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    prepare = ray.remote(num_cpus=0, max_retries=0)(node.prepare)
    tasks = []
    for cluster_node in ray.nodes():
        if cluster_node["Alive"] and cluster_node["Resources"].get("CPU"):
            on_node = NodeAffinitySchedulingStrategy(cluster_node["NodeID"], soft=False)
            tasks.append(prepare.options(scheduling_strategy=on_node).remote(spec))

    problems: list[str] = []
    for task in tasks:
        with suppress(ray.exceptions.RayError):  # the node died meanwhile
            problems += ray.get(task)
    if problems:
        raise InputError(dict.fromkeys(problems))
