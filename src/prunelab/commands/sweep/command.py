"""`prunelab sweep`."""

from pathlib import Path
from typing import Annotated

from typer import Option

from prunelab.commands.common import interruptible, print_line, report_failures, reporting_errors

Assignments = Annotated[
    list[str],
    Option(
        "--set-param",
        "-S",
        metavar="KEY=V1,V2",
        help="A parameter and its values; the product of all is run.",
    ),
]


def sweep(
    assignments: Assignments,
    jobs: Annotated[
        int, Option(min=1, help="How many settings at a time on this machine, a GPU each.")
    ] = 1,
    address: Annotated[
        str | None,
        Option(metavar="ADDR", help="Run on Ray: auto, HOST:PORT, ray://HOST:10001, or local."),
    ] = None,
    cpus_per_task: Annotated[
        float | None,
        Option(min=0, help="Of Ray's tasks.  [default: runtime.threads]", show_default=False),
    ] = None,
    gpus_per_task: Annotated[
        float | None,
        Option(
            min=0, help="Of Ray's tasks.  [default: 1 if the cluster has any]", show_default=False
        ),
    ] = None,
    git_remote: Annotated[
        str, Option(help="With --address: from where machines get the commit.")
    ] = "origin",
) -> None:
    """Run the product of several parameters' values, each combination as one DVC experiment, and compare them.

    Values are written as for `dvc exp run -S`. Everything that can be found wrong is reported before any work starts;
    what was measured by the same code is not run again, so that the same command goes on where it was.

    With --address the settings run as tasks of a Ray cluster, which share with this machine no more than the Git remote
    and the DVC remote that .dvc/config names (docs/scaling.md).

    Example: prunelab sweep -S ratio=0.2,0.5,0.8 -S model=resnet20,resnet56 --jobs 2
    """
    with reporting_errors():
        from prunelab.commands.compare.compare import compared
        from prunelab.commands.studies.jobs import jobs_of
        from prunelab.commands.studies.local import run_jobs
        from prunelab.commands.studies.validate import check_settings
        from prunelab.commands.sweep.axes import NAME, params_name, read_axes, resolve_sweep
        from prunelab.config.params import PARAMS_FILE, load_params
        from prunelab.core.errors import InputError
        from prunelab.project.experiments import chain, experiments

        if address and jobs > 1:
            raise InputError(
                "--jobs is for this machine; with --address Ray runs as many as --cpus-per-task leaves room for"
            )
        root = Path.cwd()
        axes = read_axes(assignments)
        load_params(PARAMS_FILE)
        settings = resolve_sweep(axes, PARAMS_FILE, chain((root / "dvc.yaml").read_text()))
        print_line(f"checking {len(settings)} settings ...")
        check_settings(root, settings, elsewhere=address is not None)
        work = jobs_of(root, settings, lambda _, params: (NAME, params_name(params)))
        with interruptible():
            if address:
                from prunelab.commands.sweep.ray.driver import Resources, run_elsewhere

                resources = Resources(cpus_per_task, gpus_per_task)
                failures = run_elsewhere(
                    root, NAME, work, address, git_remote, resources, print_line
                )
            else:
                failures = run_jobs(root, NAME, work, at_once=jobs, tell=print_line)
        made = {experiment.name for experiment in experiments(root)}
        if names := [job.name for job in work if job.name in made]:
            print("\n" + compared(root, names, "macs", "text", None))
    report_failures(failures, len(settings))
