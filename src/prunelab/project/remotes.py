"""Finished runs on a DVC remote."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunelab.core.errors import InputError
from prunelab.project.dvc_graph import open_repo


@dataclass(frozen=True)
class PushResult:
    """The number of runs on the remote, of files pushed, and of files that the cache lacks."""

    runs: int
    pushed_files: int
    missing_files: int


def push_runs(root: Path, remote: str | None) -> PushResult:
    """Push every run of DVC's run cache, with its files, to a remote (None: the default one).

    Raises:
        InputError: if there is no such remote, or it cannot be reached; with DVC's message.
    """
    from dvc.exceptions import DvcException

    with open_repo(root) as repo:
        try:
            runs = list(_known_runs(repo))
            files = _files_of(repo, runs)
            cached = {file for file in files if repo.cache.local.exists(file.value)}
            result = repo.cloud.push(cached, remote=remote)
            if result.failed:
                raise InputError(
                    f"{len(result.failed)} files could not be pushed; "
                    "run the same command again to retry them"
                )
            # The runs come last: a run on the remote then has all its files there.
            repo.stage_cache.push(remote)
        except DvcException as error:
            raise InputError(f"DVC: {' '.join(str(error).split())}") from None
    return PushResult(len(runs), len(result.transferred), len(files - cached))


def _known_runs(repo: Any) -> Iterator[tuple[str, str]]:
    """Yield the key and value by which the run cache names each run."""
    for path in sorted(Path(repo.cache.local_cache_dir, "runs").glob("*/*/*")):
        yield path.parent.name, path.name


def _files_of(repo: Any, runs: list[tuple[str, str]]) -> set[Any]:
    """Return the hashes of all files that these runs wrote."""
    # `stage_cache.get_used_objs` is internal to DVC. The public `dvc push --run-cache` pushes the
    # files of the current dvc.lock alone. If DVC changes it, the tests of `prunelab push` in
    # tests/system/test_remotes.py fail.
    files: set[Any] = set()
    for hashes in repo.stage_cache.get_used_objs(runs).values():
        files.update(hashes)
    return files
