"""`prunelab verify`."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from prunelab.commands.common import print_line, reporting_errors


def verify(
    revision: Annotated[
        str, Argument(metavar="[REV]", help="A commit, branch or experiment.")
    ] = "HEAD",
    stages: Annotated[
        list[str] | None,
        Option(
            "--stages",
            metavar="STAGE",
            help="This stage or group, and others so named, with all they rest on.",
        ),
    ] = None,
    runs: Annotated[
        int, Option(min=1, help="How often; 1 is held against the commit's own results alone.")
    ] = 2,
    jobs: Annotated[int, Option("--jobs", "-j", min=1, help="How many stages at a time.")] = 1,
    keep: Annotated[
        Path | None,
        Option(metavar="DIR", help="Leave the clones here, to be looked at.", show_default=False),
    ] = None,
) -> None:
    """Repeat a commit's pipeline in fresh clones, and compare all that came out, to the bit.

    Every run starts from nothing: a clone of its own, an empty DVC cache, no earlier result. Runs differ in what must
    not matter: folder, time zone, locale, seed of Python's hashes, rights of new files. Their outputs are held against
    each other, and against those that the commit's dvc.lock names if they were made on the same processor, packages and
    threads; if not, that is said, with what differs. What is not the same is named down to the tensor. Stages that rest
    on a clock, and the report of them, are left out.

    Ends with 1 if a repetition is not the same, or committed results from an environment like this one are not.
    Raw data is taken from data/raw and not downloaded again. It takes as long as the pipeline, times the runs.

    Example: prunelab verify, or sooner: prunelab verify --stages train_base --runs 1
    """
    from prunelab.commands.repro.runner import Stopped, stoppable
    from prunelab.commands.verify.verify import verified
    from prunelab.core.errors import InputError
    from prunelab.project.git import git
    from prunelab.project.revisions import resolve
    from prunelab.project.trees import Tree

    root = Path.cwd()
    try:
        with reporting_errors(), stoppable():
            commit = resolve(root, [revision])[revision]
            if commit is None:
                raise InputError(
                    "REV: the workspace cannot be cloned; valid: a commit, a branch, an experiment"
                )
            if keep and keep.exists() and not (keep.is_dir() and not any(keep.iterdir())):
                raise InputError(
                    f"--keep: {keep} holds something already; valid: a folder that is empty or not there"
                )
            if revision == "HEAD" and git(root, "status", "--porcelain", "--untracked-files=no"):
                print_line("what is not committed takes no part")
            with _folder(keep) as folder:
                alike = verified(
                    Tree(root, revision, commit),
                    stages or [],
                    folder,
                    runs=runs,
                    jobs=jobs,
                    tell=print_line,
                )
    except Stopped as stopped:
        print("\nstopped; nothing here was changed", file=sys.stderr)
        raise typer.Exit(128 + stopped.args[0]) from None
    if not alike:
        print("NOT the same", file=sys.stderr)
        raise typer.Exit(1)


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """Where the clones go: a folder to keep, or one that goes away."""
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.resolve()
    else:
        with tempfile.TemporaryDirectory(prefix="prunelab-verify-") as folder:
            yield Path(folder)
