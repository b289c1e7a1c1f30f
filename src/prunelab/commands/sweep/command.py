"""`prunelab sweep`: arguments and help; `run_sweep` does the work."""

from pathlib import Path
from typing import Annotated

from typer import Option

from prunelab.commands.common import print_line, report_failures, reporting_errors

Assignments = Annotated[
    list[str],
    Option(
        "--set-param",
        "-S",
        metavar="KEY=V1,V2",
        help="A parameter and its values; the product of all is run.",
    ),
]

# Where tries run, as `search` takes it too.
Address = Annotated[
    str | None,
    Option(metavar="ADDR", help="Run on Ray: auto, HOST:PORT, ray://HOST:10001, or local."),
]
CpusPerTask = Annotated[
    float | None,
    Option(min=0, help="CPUs of each Ray task.  [default: runtime.threads]", show_default=False),
]
GpusPerTask = Annotated[
    float | None,
    Option(
        min=0,
        help="GPUs of each Ray task.  [default: 1 if the cluster has any]",
        show_default=False,
    ),
]
GitRemote = Annotated[
    str, Option(help="With --address: the remote from which machines get the commit.")
]


def sweep(
    assignments: Assignments,
    jobs: Annotated[
        int, Option(min=1, help="How many settings at a time on this machine, a GPU each.")
    ] = 1,
    address: Address = None,
    cpus_per_task: CpusPerTask = None,
    gpus_per_task: GpusPerTask = None,
    git_remote: GitRemote = "origin",
) -> None:
    """Run every combination of several parameters' values as a DVC experiment, and compare them.

    Values are written as for `dvc exp run -S`. All problems that can be found are reported before
    any work starts. Settings that the same code has measured do not run again, so the same command
    continues an interrupted sweep.

    With --address the settings run as tasks of a Ray cluster. Its machines share only the Git
    remote and the DVC remote of .dvc/config with this machine (docs/sweeps.md).

    Example:
      prunelab sweep -S ratio=0.2,0.5,0.8 -S model=resnet20,resnet56
    """
    with reporting_errors():
        from prunelab.commands.sweep.sweep import RayOptions, run_sweep
        from prunelab.core.terminal import paint_tables

        ray_options = None
        if address:
            ray_options = RayOptions(address, git_remote, cpus_per_task, gpus_per_task)
        result = run_sweep(Path.cwd(), assignments, jobs, ray_options, print_line)
        if result.table:
            print(f"\n{paint_tables(result.table)}")
    report_failures(result.failures, result.count)
