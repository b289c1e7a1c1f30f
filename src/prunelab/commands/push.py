"""`prunelab push`: send every finished run, with all that it wrote, to a DVC remote."""

import sys
from pathlib import Path
from typing import Annotated

from typer import Option

from prunelab.commands.common import reporting_errors
from prunelab.project.remotes import push_runs


def push(
    remote: Annotated[
        str | None,
        Option(metavar="NAME", help="A DVC remote.  [default: the project's]", show_default=False),
    ] = None,
) -> None:
    """Push all finished stages, so that a second machine need not run them: `dvc repro --pull`.

    `dvc push --run-cache` pushes only data of the current dvc.lock, without the files that Git
    keeps. This command pushes every file of every run in DVC's run cache, whatever its parameters.

    Example:
      git push && prunelab push
    """
    with reporting_errors():
        result = push_runs(Path.cwd(), remote)

    print(
        f"{result.runs} finished runs are in the remote; "
        f"{result.pushed_files} files were not there yet"
    )
    if result.missing_files:
        print(
            f"{result.missing_files} files of older runs are not in this cache any more, "
            "so their runs are not found",
            file=sys.stderr,
        )
