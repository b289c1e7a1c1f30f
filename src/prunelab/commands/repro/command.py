"""`prunelab repro`: arguments, help and printed lines; `runner.reproduce` does the work."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from prunelab.commands.common import reporting_errors
from prunelab.core.terminal import paint_tables

if TYPE_CHECKING:
    from prunelab.commands.repro.runner import ReproResult


def repro(
    targets: Annotated[
        list[str] | None,
        Argument(
            metavar="TARGET",
            help="Stages, or groups such as evaluate.  [default: all]",
            show_default=False,
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        Option(
            "--jobs",
            "-j",
            min=1,
            help="How many stages at a time.  [default: cores / runtime.threads]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Reproduce the pipeline as `dvc repro` does, several stages at a time, after `prunelab check`.

    A stage starts as soon as all stages that it needs are done. Stages with the longest chains
    behind them go first. A stage marked `meta: {alone: true}` in dvc.yaml, because it measures
    time, starts when nothing else runs. Results and dvc.lock have the same bytes as with
    `dvc repro`.

    The packages are loaded once: stages run in forks of a process that has them. The running stages
    share the CPU cores evenly. If there are GPUs, each stage gets one; with more jobs than GPUs,
    several stages share one. A failure stops only the stages that depend on it. Logs are in
    .prunelab/logs.

    runtime.threads is not changed, because results depend on it. If jobs x runtime.threads is more
    than the cores, runtime.threads: 1 is faster, but the last bits of results change.

    Example:
      prunelab repro
      prunelab repro --jobs 1     # one stage at a time
      prunelab repro evaluate     # one group of stages, with all that it needs
    """
    from prunelab.commands.repro.runner import Stopped, stoppable
    from prunelab.commands.repro.summary import summary

    start = time.monotonic()
    try:
        with reporting_errors(), stoppable():
            result = _checked_run(Path.cwd(), targets or [], jobs)
    except Stopped as error:
        print("\nstopped; run the same command again to continue", file=sys.stderr)
        raise typer.Exit(128 + error.args[0]) from None

    if result.failed:
        _print_failures(result)
        raise typer.Exit(1)
    seconds = time.monotonic() - start
    text = summary(Path.cwd(), made=result.made, unchanged=result.unchanged, seconds=seconds)
    print(paint_tables(text))


def _checked_run(root: Path, targets: list[str], jobs: int | None) -> "ReproResult":
    """Repair what a killed DVC left, check the parameters, and run the stages."""
    from prunelab.commands.common import core_count, print_line
    from prunelab.commands.gpus import devices
    from prunelab.commands.repro.checking import started_check
    from prunelab.commands.repro.cores import default_jobs, sharing_warnings
    from prunelab.commands.repro.runner import LOGS, reproduce
    from prunelab.project.recovery import repair

    for line in repair(root):
        print_line(line)
    with started_check(root, root / LOGS) as (check, variables):
        try:
            threads = _threads()
            cores, gpus = core_count(), len(devices())
            job_count = jobs or default_jobs(cores, threads, gpus)
            for line in sharing_warnings(job_count, threads, cores=cores, gpus=gpus):
                print_line(line)
            return reproduce(root, targets, job_count, print_line, check=check, loaded=variables)
        except Exception:
            check()  # what it says about bad parameters is plainer than what they made fail here
            raise


def _threads() -> int:
    from prunelab.config.params import PARAMS_FILE, read_params

    return int(read_params(PARAMS_FILE)["runtime"]["threads"])


def _print_failures(result: "ReproResult") -> None:
    from prunelab.commands.common import last_lines

    lines = []
    for stage, log in result.failed.items():
        lines.append(f"\n{stage} failed; the end of {log}:\n{last_lines(log)}")
    for stage, failed_stage in result.skipped.items():
        lines.append(f"{stage} was skipped, because {failed_stage} failed")
    lines.append(
        f"\n{len(result.failed)} failed, {len(result.skipped)} skipped; "
        "run the same command again to retry them"
    )
    print("\n".join(lines), file=sys.stderr)
