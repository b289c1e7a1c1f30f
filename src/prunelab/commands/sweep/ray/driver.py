"""Run jobs on a Ray cluster, one task each. The only module that imports Ray."""

import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prunelab.commands.studies.jobs import Job, one_of_each_dense, unmeasured
from prunelab.commands.sweep.ray import node
from prunelab.commands.sweep.ray.node_job import DENSE, SETTING
from prunelab.commands.sweep.ray.remotes import check_remotes, fetch_experiments
from prunelab.core.errors import InputError
from prunelab.project.git import git

RETRIES = 5
PATIENCE_S = 20.0
Order = dict[str, Any]


@dataclass(frozen=True)
class Resources:
    """What Ray gives every task; None: as many CPUs as the setting has threads, one GPU where the cluster has any."""

    cpus: float | None
    gpus: float | None


def run_elsewhere(
    root: Path,
    title: str,
    jobs: Sequence[Job],
    address: str,
    remote: str,
    resources: Resources,
    tell: Callable[[str], None],
) -> Mapping[str, str]:
    """Run on a cluster what no experiment here or on the Git remote has measured, and fetch what came out.

    Returns the failures, the log's end by the job's label.

    Raises:
        InputError: with one line per problem of the remotes, Ray or its nodes, before any work starts.
    """
    revision = git(root, "rev-parse", "HEAD").strip()
    url = check_remotes(root, remote, revision)
    names = [job.name for job in jobs]
    fetch_experiments(root, url, names)
    pending = unmeasured(root, jobs, revision, tell)
    if not pending:
        return {}
    try:
        with connected(address) as ray:
            return run_on_cluster(
                ray, order_for(root, url, revision, title), pending, resources, tell
            )
    finally:
        fetch_experiments(root, url, names)


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, connected to a cluster: `auto`, host:port, ray://host:port, or `local` for one on this machine alone.

    Raises:
        InputError: if Ray is not installed or nothing answers there.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # it takes different settings for repetitions
    try:
        import ray
    except ImportError:
        raise InputError(
            "--address needs Ray, which is not installed: pip install prunelab[ray]"
        ) from None
    where: dict[str, Any] = (
        {"include_dashboard": False} if address == "local" else {"address": address}
    )
    try:
        _knock(address)
        ray.init(**where, logging_level=logging.ERROR, log_to_driver=True)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise InputError(
            f"--address {address}: {why}; valid: auto, local, HOST:PORT, ray://HOST:10001"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError where nothing listens: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=PATIENCE_S).close()


def order_for(root: Path, url: str, revision: str, title: str) -> Order:
    """What every node is told: where the commit is, who commits, and the versions that numbers rest on here."""
    from prunelab.runtime.device import FINGERPRINT_PACKAGES

    identity = {}
    for key in ("user.name", "user.email"):
        with suppress(InputError):
            identity[key] = git(root, "config", key).strip()
    wanted = node.versions(list(FINGERPRINT_PACKAGES))
    return {
        "url": url,
        "revision": revision,
        "title": title,
        "identity": identity,
        "versions": wanted,
    }


def run_on_cluster(
    ray: Any, order: Order, jobs: Sequence[Job], resources: Resources, tell: Callable[[str], None]
) -> Mapping[str, str]:
    """Train every dense network, then measure every setting on it, each a task that Ray places; return the failures.

    A task whose node died is started anew on another.

    Raises:
        InputError: if a node lacks what the work needs.
    """
    ray.cloudpickle.register_pickle_by_value(node)
    _check_nodes(ray, order)
    gpus = (
        resources.gpus
        if resources.gpus is not None
        else float(ray.cluster_resources().get("GPU", 0) >= 1)
    )
    task = ray.remote(max_retries=RETRIES)(node.perform)
    place = {job.name: f"{number}/{len(jobs)}" for number, job in enumerate(jobs, start=1)}
    failures: dict[str, str] = {}
    running: dict[Any, tuple[str, Job]] = {}

    def start(kind: str, job: Job, at: str) -> None:
        content = {**order, "kind": kind, "place": at, "job": asdict(job)}
        cpus = resources.cpus if resources.cpus is not None else job.params["runtime"]["threads"]
        wants_gpu = job.params["runtime"]["device"] != "cpu"
        running[task.options(num_cpus=cpus, num_gpus=gpus if wants_gpu else 0).remote(content)] = (
            kind,
            job,
        )

    for dense, job in one_of_each_dense(jobs).items():
        label = f"dense network ({job.params['model']})"
        start(DENSE, Job(label, f"dense-{dense}", job.params, job.held, dense), DENSE)
    finished = 0
    while running:
        (done,), _ = ray.wait(list(running), num_returns=1)
        kind, job = running.pop(done)
        try:
            where, failure = ray.get(done)
        except ray.exceptions.RayError as error:
            where, failure = "Ray", str(error)
        if kind == SETTING:
            finished += 1
            tell(
                f"{finished} of {len(jobs)}: {job.label} {'FAILED' if failure else 'measured'} on {where}"
            )
            failures |= {job.label: failure} if failure else {}
            continue
        rest_on_it = [setting for setting in jobs if setting.dense == job.dense]
        tell(
            f"{job.label} {'FAILED' if failure else 'ready'} on {where}, for {len(rest_on_it)} settings"
        )
        for setting in rest_on_it:
            if failure:
                finished += 1
                failures[setting.label] = f"its dense network failed:\n{failure}"
            else:
                start(SETTING, setting, place[setting.name])
    return failures


def _check_nodes(ray: Any, order: Order) -> None:
    """Let every node that can work clone the commit and compare versions; those that join later do so themselves."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_cpus=0, max_retries=0)(node.prepare)
    able = [its["NodeID"] for its in ray.nodes() if its["Alive"] and its["Resources"].get("CPU")]
    asked = [
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(name, soft=False)).remote(
            order
        )
        for name in able
    ]
    problems: list[str] = []
    for answer in asked:
        with suppress(ray.exceptions.RayError):  # the node died meanwhile
            problems += ray.get(answer)
    if problems:
        raise InputError(dict.fromkeys(problems))
