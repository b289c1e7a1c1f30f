"""`prunelab push`: send every finished run, with all that it wrote, to a DVC remote."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from prunelab.commands.common import reporting_errors
from prunelab.core.errors import InputError
from prunelab.project.dvc_graph import opened


@dataclass(frozen=True)
class PushResult:
    """How many runs the cache knows, and what became of their files."""

    runs: int
    pushed_files: int
    lost_files: int  # no longer in this cache


def push(
    remote: Annotated[
        str | None,
        Option(metavar="NAME", help="A DVC remote.  [default: the project's]", show_default=False),
    ] = None,
) -> None:
    """Push all finished stages, so that a second machine need not run them: `dvc repro --pull`.

    `dvc push --run-cache` pushes only data of the current dvc.lock, without the files that Git
    keeps. This command pushes every file of every run in DVC's run cache, whatever its parameters.

    Example: git push && prunelab push
    """
    with reporting_errors():
        result = push_runs(Path.cwd(), remote)

    print(
        f"{result.runs} finished runs are in the remote; "
        f"{result.pushed_files} files were not there yet"
    )
    if result.lost_files:
        print(
            f"{result.lost_files} files of older runs are not in this cache any more, "
            "so their runs are not found",
            file=sys.stderr,
        )


def push_runs(root: Path, remote: str | None) -> PushResult:
    """Push all runs in the run cache of the project at `root`, with their files.

    Raises:
        InputError: with DVC's message, if there is no such remote or it cannot be reached.
    """
    from dvc.exceptions import DvcException

    with opened(root) as repo:
        try:
            runs = list(_cached_runs(repo))
            files = set()
            for run_files in repo.stage_cache.get_used_objs(runs).values():
                files |= set(run_files)
            cached_files = {file for file in files if repo.cache.local.exists(file.value)}

            transfer = repo.cloud.push(cached_files, remote=remote)
            if transfer.failed:
                raise InputError(
                    f"{len(transfer.failed)} files could not be pushed; "
                    "run the same command again to retry them"
                )
            # Runs go last: a run that another machine finds must have its files.
            repo.stage_cache.push(remote)
        except DvcException as error:
            raise InputError(f"DVC: {' '.join(str(error).split())}") from None

    return PushResult(
        runs=len(runs),
        pushed_files=len(transfer.transferred),
        lost_files=len(files - cached_files),
    )


def _cached_runs(repo: Any) -> Iterator[tuple[str, str]]:
    """The key and the value by which the run cache names each run."""
    folder = Path(repo.cache.local_cache_dir, "runs")
    for path in sorted(folder.glob("*/*/*")):
        yield path.parent.name, path.name
