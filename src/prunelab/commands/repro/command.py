"""`prunelab repro`."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from prunelab.commands.common import reporting_errors


def repro(
    targets: Annotated[
        list[str] | None,
        Argument(
            metavar="[TARGET]...",
            help="Stages, or groups such as evaluate.  [default: all]",
            show_default=False,
        ),
    ] = None,
    jobs: Annotated[int, Option("--jobs", "-j", min=1, help="How many stages at a time.")] = 1,
) -> None:
    """Reproduce the pipeline as `dvc repro` does, several stages at a time, after `prunelab check`.

    A stage starts as soon as all it needs is done, longest chains first; those marked `meta: {alone: true}` in dvc.yaml
    (what rests on a clock) start when nothing else runs. Results and dvc.lock are those of `dvc repro` to the byte.
    Every stage has its share of the CPU cores, and where there are GPUs one of them, which several share if there are
    fewer than jobs. A failure stops only what depends on it. Logs are in .prunelab/logs.

    runtime.threads stays what it is, since other numbers of threads round otherwise. Where jobs x runtime.threads is
    more than the cores, runtime.threads: 1 is faster, and its results differ in the last bits.

    Example: prunelab repro --jobs 4, or for one group of stages: prunelab repro evaluate --jobs 4
    """
    from prunelab.commands.common import last_lines
    from prunelab.commands.gpus import devices
    from prunelab.commands.repro.cores import cores, crowded
    from prunelab.commands.repro.runner import Stopped, reproduce, stoppable
    from prunelab.config.params import PARAMS_FILE, read_params
    from prunelab.project.recovery import repair

    try:
        with reporting_errors(), stoppable():
            for line in repair(Path.cwd()):
                _tell(line)
            _check()
            for line in crowded(
                jobs, read_params(PARAMS_FILE)["runtime"]["threads"], len(cores()), len(devices())
            ):
                _tell(line)
            outcome = reproduce(Path.cwd(), targets or [], jobs, tell=_tell)
    except Stopped as stopped:
        print("\nstopped; the same command goes on where this one was", file=sys.stderr)
        raise typer.Exit(128 + stopped.args[0]) from None
    for stage, log in outcome.failed.items():
        print(f"\n{stage} failed; the end of {log}:\n{last_lines(log)}", file=sys.stderr)
    for stage, cause in outcome.skipped.items():
        print(f"{stage} was skipped, since {cause} failed", file=sys.stderr)
    if outcome.failed:
        print(
            f"\n{len(outcome.failed)} failed, {len(outcome.skipped)} skipped; the same command tries them again",
            file=sys.stderr,
        )
        raise typer.Exit(1)
    print(f"all {len(outcome.made) + len(outcome.unchanged)} stages are up to date")


def _check() -> None:
    """`prunelab check` in a process of its own: it needs torch, and this one is to stay small."""
    from prunelab.core.errors import InputError

    done = subprocess.run(
        [sys.executable, "-m", "prunelab", "check"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise InputError(done.stderr.splitlines())


def _tell(line: str) -> None:
    print(line, flush=True)
