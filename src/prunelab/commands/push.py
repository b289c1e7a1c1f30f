"""`prunelab push`: to a DVC remote, every finished run with all that it wrote, metrics and pictures among it."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from prunelab.commands.common import reporting_errors
from prunelab.core.errors import InputError
from prunelab.project.dvc_graph import opened


def push(
    remote: Annotated[
        str | None,
        Option(metavar="NAME", help="A DVC remote.  [default: the project's]", show_default=False),
    ] = None,
) -> None:
    """Push what a second machine needs to run no finished stage again, whatever its parameters: `dvc repro --pull`.

    `dvc push --run-cache` pushes data of the current dvc.lock alone, and of it nothing that Git keeps; this pushes all
    that is in the cache of every run that DVC's run cache remembers.

    Example: git push && prunelab push
    """
    with reporting_errors():
        runs, objects, lost = push_runs(Path.cwd(), remote)
    print(f"{runs} finished runs are in the remote; {objects} files were not there yet")
    if lost:
        print(
            f"{lost} files of older runs are not in this cache any more, so their runs are not found",
            file=sys.stderr,
        )


def push_runs(root: Path, remote: str | None) -> tuple[int, int, int]:
    """How many runs there are, how many files had to be pushed for them, and how many are not in the cache.

    Raises:
        InputError: if there is no such remote, or it cannot be reached; with what DVC said.
    """
    from dvc.exceptions import DvcException

    with opened(root) as repo:
        try:
            known = list(_known_runs(repo))
            wanted = {
                one for found in repo.stage_cache.get_used_objs(known).values() for one in found
            }
            kept = {one for one in wanted if repo.cache.local.exists(one.value)}
            done = repo.cloud.push(kept, remote=remote)
            if done.failed:
                raise InputError(
                    f"{len(done.failed)} files could not be pushed; the same command tries them again"
                )
            repo.stage_cache.push(remote)  # last: a run that is found has its files
        except DvcException as error:
            raise InputError(f"DVC: {' '.join(str(error).split())}") from None
    return len(known), len(done.transferred), len(wanted - kept)


def _known_runs(repo: Any) -> Iterator[tuple[str, str]]:
    """The key and value by which the run cache names each run."""
    for path in sorted(Path(repo.cache.local_cache_dir, "runs").glob("*/*/*")):
        yield path.parent.name, path.name
