"""Outputs of the pipeline, as DVC keeps them for a commit."""

from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path

from prunelab.core.errors import InputError
from prunelab.project.dvc_graph import load_repo, open_repo


def fetch_output(root: Path, commit: str, path: Path, target: Path) -> None:
    """Copy an output of a commit to `target`, from DVC's cache or remote.

    Raises:
        InputError: if neither has the file, with DVC's reason.
    """
    from dvc.exceptions import DvcException
    from dvc.repo.brancher import switch

    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        # `switch` is what DVC's own commands use. The public DVCFileSystem(root, rev=commit) reads
        # a commit from the top of the repository, where another project may lie, or none.
        with load_repo(root) as repo, switch(repo, commit):
            repo.dvcfs.get_file(f"/{path.as_posix()}", str(target))
    except (DvcException, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} is neither in DVC's cache nor in a remote ({reason})") from None


def restore_stages(root: Path, stages: Sequence[str]) -> list[str]:
    """Put the outputs of stages into the tree, as dvc.lock names them, from DVC's cache.

    Returns:
        The paths of outputs that the cache lacks. They are not in the tree either.

    Raises:
        InputError: if the tree has other outputs that are not in the cache and would be lost.
            Nothing is changed then.
    """
    from dvc.exceptions import DvcException

    with chdir(root), open_repo(root) as repo:
        outputs = []
        for stage in repo.index.stages:
            if stage.addressing in stages:
                outputs += [output for output in stage.outs if output.use_cache]
        # Others need nothing of the cache, which may lack them.
        differing = {out.stage.addressing for out in outputs if out.workspace_status()}

        try:
            if differing:
                repo.checkout(targets=sorted(differing), allow_missing=True)
        except DvcException as error:
            if not str(error).startswith("Can't remove"):
                raise
            raise InputError(
                f"{file} was not written by a stage, and DVC does not have it; move it away"
                for file in str(error).splitlines()[1:]
            ) from None
        return [str(output) for output in outputs if not output.exists]


def restore_outputs(folder: Path) -> None:
    """Put the outputs that dvc.lock names into a clone; those that the cache lacks stay away."""
    with chdir(folder), open_repo(folder) as repo:
        repo.checkout(allow_missing=True)
