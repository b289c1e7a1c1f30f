"""What a sweep on Ray costs beside the work itself, and how that grows with the number of settings.

    python benchmarks/sweep.py [settings]    # how costs grow
    python benchmarks/sweep.py 0             # the efficiency of two workers

In a temporary clone of HEAD the stages are replaced by commands that take no time (a megabyte of
noise for the dense network, 100 kB for every pruned one), so that what is left is the cost of a
setting: starting Python and DVC, hashing and pushing. The settings (50) run in three goes over two
nodes of a Ray on this machine, each go adding to the last; what the driver does is measured for as
many. A straight line and a parabola through what was measured say what 1,000 would take. CPU
seconds are printed where they can be measured, because other work on the machine hardly changes
them. Efficiency is that of settings which sleep, as they would while a GPU works.
"""

import io
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from pathlib import Path

import numpy as np

from prunelab.commands.compare.compare import compare_revisions
from prunelab.commands.studies.jobs import Job, pending_jobs, plan_jobs
from prunelab.commands.studies.validate import check_settings
from prunelab.commands.sweep.axes import NAME, params_name, resolve_sweep
from prunelab.commands.sweep.ray import node
from prunelab.commands.sweep.ray.driver import sweep_spec
from prunelab.commands.sweep.ray.remotes import fetch_experiments
from prunelab.config.params import PARAMS_FILE
from prunelab.project.experiments import stage_closure

PROJECT = Path(__file__).parent.parent
MANY = 1000
NAPS, NAP_S = 4, 40
STAGES = """
vars: [{{nap: {nap}}}]
stages:
  prepare:
    cmd: mkdir -p data/prepared && echo "${{dataset}}" > data/prepared/dataset.json
    deps: [environment.lock]
    params: [dataset, data]
    outs: [data/prepared/dataset.json]
  train_base:
    cmd: mkdir -p models/base && head -c 1000000 /dev/urandom > models/base/final
    deps: [data/prepared/dataset.json]
    params: [model, weights, seeds, train, runtime]
    outs: [models/base/final]
  evaluate_base:
    cmd: sed s/@/0.9/ measured.json > metrics/base.json
    deps: [models/base/final, measured.json]
    params: [evaluate]
    metrics: [metrics/base.json: {{cache: false}}]
  prune_focus:
    cmd: >-
      mkdir -p models/focus && sleep ${{nap}}
      && head -c 100000 /dev/urandom > models/focus/pruned
    deps: [models/base/final]
    params: [method, ratio, budget, prune, finetune]
    outs: [models/focus/pruned]
  evaluate_focus:
    cmd: sed s/@/0.${{seeds[0]}}/ measured.json > metrics/focus.json
    deps: [models/focus/pruned, metrics/base.json, measured.json]
    metrics: [metrics/focus.json: {{cache: false}}]
"""


class Project:
    """A clone of HEAD with stages that do nothing, and its two remotes."""

    def __init__(self, base: Path, nap: float = 0):
        self.base, self.folder = base, base / "project"
        self.git("clone", "--quiet", str(PROJECT), str(self.folder), folder=base)
        self.git("init", "--quiet", "--bare", str(base / "remote.git"))
        self.git("remote", "set-url", "origin", str(base / "remote.git"))
        for key, value in (("user.name", "Benchmark"), ("user.email", "benchmark@example.com")):
            self.git("config", key, value)
        measured = json.loads((self.folder / "metrics/focus.json").read_text()) | {"accuracy": "@"}
        (self.folder / "measured.json").write_text(json.dumps(measured).replace('"@"', "@"))
        params = self.folder / "params.yaml"
        params.write_text(re.sub(r"threads: \d+", "threads: 1", params.read_text()))
        storage = (
            f"[core]\n    remote = storage\n['remote \"storage\"']\n    url = {base / 'storage'}\n"
        )
        (self.folder / ".dvc/config").write_text(storage)
        self.git("rm", "-q", "--cached", "dvc.lock")
        (self.folder / "dvc.lock").unlink()
        (self.folder / "dvc.yaml").write_text(STAGES.format(nap=nap))
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "Stages that do nothing")
        self.git("push", "--quiet", "origin", "HEAD:main")

    def git(self, *arguments: str, folder: Path | None = None) -> str:
        command = ["git", "-C", str(folder or self.folder), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def sweep(self, address: str, ratios: list[float]) -> tuple[float, float]:
        """Wall seconds and the driver's own CPU seconds of a sweep over these ratios."""
        command = [
            sys.executable,
            "-m",
            "prunelab",
            "sweep",
            "--address",
            address,
            "--cpus-per-task",
            "1",
        ]
        command += ["-S", f"ratio={','.join(f'{ratio:.4f}' for ratio in ratios)}"]
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {**os.environ, "PYTHONPATH": str(self.folder / "src"), "PATH": path}
        start, log = time.perf_counter(), self.base / "sweep.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=output, stderr=output
            )
            _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"the sweep failed:\n{log.read_text()[-3000:]}")
        return time.perf_counter() - start, usage.ru_utime + usage.ru_stime

    def stored(self) -> dict[str, float]:
        """References and bytes on the Git remote; files and bytes on the DVC remote."""
        remote = self.base / "remote.git"
        own = ("--objects", "--glob=refs/exps", "--not", "main")
        files = [file for file in (self.base / "storage").rglob("*") if file.is_file()]
        return {
            "Git references": len(
                self.git("for-each-ref", "refs/exps", folder=remote).splitlines()
            ),
            "Git, kB of experiments": int(self.git("rev-list", "--disk-usage", *own, folder=remote))
            / 1e3,
            "DVC, files": len(files),
            "DVC, kB": sum(file.stat().st_size for file in files) / 1e3,
        }


@contextmanager
def nodes(base: Path, count: int) -> Iterator[str]:
    """The address of a Ray with so many nodes of one CPU each."""
    from ray.cluster_utils import Cluster

    memory = {"object_store_memory": 80 * 2**20}
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **memory}
    )
    for number in range(count):
        scratch = {"PRUNELAB_SCRATCH": str(base / f"node_{number}")}
        cluster.add_node(num_cpus=1, env_vars=scratch, **memory)
    try:
        yield cluster.address
    finally:
        cluster.shutdown()


def ray_alone(address: str, tasks: int = 500) -> float:
    """Seconds per task that does nothing."""
    import ray

    ray.init(address, log_to_driver=False, logging_level=40)
    try:
        nothing = ray.remote(lambda: None)
        ray.get([nothing.remote() for _ in range(20)])  # workers start
        start = time.perf_counter()
        ray.get([nothing.remote() for _ in range(tasks)])
        return (time.perf_counter() - start) / tasks
    finally:
        ray.shutdown()


def cpu_seconds() -> float:
    """Of this process and all that it has waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def jobs(project: Project, ratios: list[float]) -> list[Job]:
    settings = resolve_sweep(
        {"ratio": ratios}, PARAMS_FILE, stage_closure((project.folder / "dvc.yaml").read_text())
    )
    return plan_jobs(project.folder, settings, lambda _, params: (NAME, params_name(params)))


def one_setting(project: Project, ratio: float) -> float:
    """CPU seconds of a setting on a node that has its clone and the dense network: Ray's task
    without Ray.
    """
    os.environ["PRUNELAB_SCRATCH"] = str(project.base / "node_0")
    revision = project.git("rev-parse", "HEAD").strip()
    spec = sweep_spec(project.folder, str(project.base / "remote.git"), revision, NAME)
    (job,) = jobs(project, [ratio])
    start = cpu_seconds()
    with redirect_stdout(io.StringIO()):
        _, failure = node.run_job({**spec, "kind": "setting", "position": "", "job": asdict(job)})
    if failure:
        sys.exit(failure)
    return cpu_seconds() - start


def driver(project: Project, ratios: list[float]) -> dict[str, float]:
    """CPU seconds of what the driver does before and after the work, for settings that are all
    there.
    """
    root, seconds = project.folder, {}

    def timed(what: str, act: Callable[[], object]) -> None:
        start = cpu_seconds()
        act()
        seconds[f"driver, {what}, s of CPU"] = cpu_seconds() - start

    work = jobs(project, ratios)
    names, settings = [job.name for job in work], {job.label: job.params for job in work}
    timed("checking", lambda: check_settings(root, settings, elsewhere=True))
    timed(
        "asking the Git remote",
        lambda: fetch_experiments(root, str(project.base / "remote.git"), names),
    )
    revision = project.git("rev-parse", "HEAD").strip()
    timed("finding what is done", lambda: pending_jobs(root, work, revision, lambda line: None))
    timed("the table", lambda: compare_revisions(root, names, cost="macs", layout="text"))
    return seconds


def fitted(counts: list[int], values: list[float]) -> list[str]:
    """What a straight line and a parabola through the measured say of MANY."""
    return [
        f"{max(np.polyval(np.polyfit(counts, values, degree), MANY), 0):,.0f}" for degree in (1, 2)
    ]


def spread(count: int) -> list[float]:
    return [round(0.1 + 0.8 * number / count, 4) for number in range(count)]


def growth(base: Path, total: int) -> None:
    """Sweep over ever more settings, and print what everything costs by their number."""
    counts, ratios = [total // 5, total // 2, total], spread(total)
    rows: dict[str, list[float]] = {}
    project = Project(base)
    os.chdir(project.folder)
    with nodes(base, 2) as address:
        print(
            f"Ray alone: {1e3 * ray_alone(address):.1f} ms per task that does nothing", flush=True
        )
        wall, driver_cpu = 0.0, 0.0
        for before, count in zip([0, *counts], counts, strict=False):
            took, own = project.sweep(address, ratios[:count])
            wall, driver_cpu = wall + took, driver_cpu + own
            measured = {
                "wall, s, all goes together": wall,
                "driver, s of CPU, all goes together": driver_cpu,
                "node, s of CPU per setting": one_setting(project, 0.95 + count / 10_000),
                **driver(project, ratios[:count]),
                **project.stored(),
            }
            for what, value in measured.items():
                rows.setdefault(what, []).append(value)
            print(
                f"{count - before} more settings in {took:.0f} s, load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
            print({what: round(value, 2) for what, value in measured.items()}, flush=True)
    print(f"\n| | {' | '.join(map(str, counts))} | {MANY:,}, by a line | by a parabola |")
    print("|:--|" + "--:|" * (len(counts) + 2))
    for what, values in rows.items():
        print(
            "| "
            + " | ".join([what, *(f"{value:,.1f}" for value in values), *fitted(counts, values)])
            + " |"
        )


def efficiency(base: Path) -> None:
    """How much of two workers' time goes into the work, where that takes no CPU of this machine."""
    seconds = {}
    for workers in (1, 2):
        (base / str(workers)).mkdir()
        project = Project(base / str(workers), nap=NAP_S)
        os.chdir(project.folder)
        with nodes(project.base, workers) as address:
            seconds[workers], _ = project.sweep(address, spread(NAPS))
        print(
            f"{NAPS} settings that sleep {NAP_S} s: {seconds[workers]:.0f} s on {workers}",
            flush=True,
        )
    print(
        f"two workers are {seconds[1] / seconds[2]:.2f} times as fast: efficiency "
        f"{seconds[1] / seconds[2] / 2:.0%}"
    )


def main() -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    total = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        growth(Path(temporary), total) if total else efficiency(Path(temporary))


if __name__ == "__main__":
    main()
