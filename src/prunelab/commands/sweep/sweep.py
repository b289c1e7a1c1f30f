"""What `prunelab sweep` does: check the settings, run them here or on Ray, compare the results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prunelab.commands.common import interruptible
from prunelab.commands.compare.compare import compare_revisions
from prunelab.commands.studies.jobs import Job, PrintLine, pending_jobs, plan_jobs
from prunelab.commands.studies.local import run_jobs
from prunelab.commands.studies.validate import check_settings
from prunelab.commands.sweep.axes import NAME, params_name, read_axes, resolve_sweep
from prunelab.config.params import PARAMS_FILE, load_params
from prunelab.core.errors import InputError
from prunelab.project.experiments import stage_closure
from prunelab.project.git import git


@dataclass(frozen=True)
class RayOptions:
    """Where the cluster is, and the resources of a task; None leaves them to the driver."""

    address: str
    git_remote: str
    cpus_per_task: float | None
    gpus_per_task: float | None


@dataclass(frozen=True)
class SweepResult:
    """The number of settings, the end of the log of each failed one, and the comparison."""

    count: int
    failures: Mapping[str, str]
    table: str | None


def run_sweep(
    root: Path,
    assignments: Sequence[str],
    at_once: int,
    ray_options: RayOptions | None,
    print_line: PrintLine,
) -> SweepResult:
    """Run every combination of the assigned values that has not been measured yet.

    Raises:
        InputError: with one line per problem of the values or the settings, before any work starts.
    """
    if ray_options and at_once > 1:
        raise InputError(
            "--jobs is for this machine. With --address, --cpus-per-task decides how many settings "
            "Ray runs at a time."
        )

    axes = read_axes(assignments)
    load_params(PARAMS_FILE)
    settings = resolve_sweep(
        axes, PARAMS_FILE, stage_closure((root / "dvc.yaml").read_text(encoding="utf-8"))
    )
    print_line(f"checking {len(settings)} settings ...")
    check_settings(root, settings, elsewhere=ray_options is not None)

    jobs = plan_jobs(root, settings, lambda _, params: (NAME, params_name(params)))
    with interruptible():
        if ray_options:
            failures = _run_on_ray(root, jobs, ray_options, print_line)
        else:
            failures = run_jobs(root, NAME, jobs, at_once=at_once, print_line=print_line)

    return SweepResult(len(settings), failures, _compare_measured(root, jobs))


def _run_on_ray(
    root: Path, jobs: Sequence[Job], options: RayOptions, print_line: PrintLine
) -> Mapping[str, str]:
    from prunelab.commands.sweep.ray.driver import Resources, run_on_ray

    resources = Resources(options.cpus_per_task, options.gpus_per_task)
    return run_on_ray(
        root,
        NAME,
        jobs,
        address=options.address,
        remote=options.git_remote,
        resources=resources,
        print_line=print_line,
    )


def _compare_measured(root: Path, jobs: Sequence[Job]) -> str | None:
    """Return the comparison of the jobs that this code has measured, None if it has none."""
    revision = git(root, "rev-parse", "HEAD").strip()
    pending = {job.name for job in pending_jobs(root, jobs, revision, lambda line: None)}
    names = [job.name for job in jobs if job.name not in pending]
    if not names:
        return None
    return compare_revisions(root, names, cost="macs", layout="text")
