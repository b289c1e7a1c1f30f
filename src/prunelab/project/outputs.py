"""Outputs of the pipeline, as DVC keeps them for a commit."""

from contextlib import chdir
from pathlib import Path

from prunelab.core.errors import InputError
from prunelab.project.dvc_graph import open_repo


def fetch_output(root: Path, commit: str, path: Path, target: Path) -> None:
    """Copy an output of a commit to `target`, from DVC's cache or remote.

    Raises:
        InputError: if neither has the file, with DVC's reason.
    """
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException

    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        DVCFileSystem(str(root), rev=commit).get_file(path.as_posix(), str(target))
    except (DvcException, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} is neither in DVC's cache nor in a remote ({reason})") from None


def restore_outputs(folder: Path) -> None:
    """Put the outputs that dvc.lock names into a clone; those that the cache lacks stay away."""
    with chdir(folder), open_repo(folder) as repo:
        repo.checkout(allow_missing=True)
