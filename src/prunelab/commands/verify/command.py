"""`prunelab verify`: arguments and output."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from prunelab.commands.common import print_line, reporting_errors
from prunelab.core.project_root import argument_path

if TYPE_CHECKING:
    from prunelab.project.trees import Tree


def verify(
    revision: Annotated[
        str, Argument(metavar="REV", help="A commit, branch or experiment.")
    ] = "HEAD",
    stages: Annotated[
        list[str] | None,
        Option(
            "--stages",
            metavar="STAGE",
            help="This stage or group, with all that it needs. May be given several times.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        Option(
            metavar="COMMIT",
            help="Compare with the results of this commit, whatever machine they were made on.",
            show_default=False,
        ),
    ] = None,
    runs: Annotated[
        int, Option(min=1, help="How often. 1 compares with the committed results alone.")
    ] = 2,
    jobs: Annotated[int, Option("--jobs", "-j", min=1, help="How many stages at a time.")] = 1,
    keep: Annotated[
        Path | None,
        Option(
            parser=argument_path,
            metavar="DIR",
            help="Leave the clones here, for a look at them.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Repeat a commit's pipeline in fresh clones, and compare all outputs to the bit.

    Every run starts from nothing: its own clone, an empty DVC cache, no earlier result. Runs
    differ in what must not matter: folder, time zone, locale, Python's hash seed, permissions of
    new files.
    Their outputs are compared with each other. They are also compared with those in the
    commit's dvc.lock, if that was made on the same processor, packages and threads; otherwise it
    says what differs. With portable bits (runtime.bits), every x86-64 processor with AVX2 counts as
    the same. Differences are named down to the tensor. Stages that depend on a clock, and the
    report of them, are left out.

    Exit status 1: the runs differ, or they differ from committed results of a like environment, or
    from those of --against COMMIT.
    Raw data is taken from data/raw and not downloaded again. It takes as long as the pipeline,
    times the runs.

    Example:
      prunelab verify
      prunelab verify --stages train_base --runs 1     # sooner
      prunelab verify --against main --runs 1          # main's bits, here?
    """
    from prunelab.commands.repro.runner import Stopped, stoppable
    from prunelab.commands.verify.verify import VerifyPlan, verify_commit

    root = Path.cwd()
    try:
        with reporting_errors(), stoppable():
            tree = _tree(root, revision, keep)
            other = _commit(root, "--against", against) if against else None
            with _folder(keep) as folder:
                plan = VerifyPlan(stages or [], runs=runs, jobs=jobs, against=other)
                same = verify_commit(tree, plan, folder, print_line)
    except Stopped as stopped:
        print("\nstopped; nothing here was changed", file=sys.stderr)
        raise typer.Exit(128 + stopped.args[0]) from None

    if not same:
        print("NOT the same", file=sys.stderr)
        raise typer.Exit(1)


def _tree(root: Path, revision: str, keep: Path | None) -> "Tree":
    """The commit to repeat, after a check of the arguments.

    Raises:
        InputError: for a revision that is no commit, or a folder to keep that is not empty.
    """
    from prunelab.core.errors import InputError
    from prunelab.project.git import changed_files

    tree = _commit(root, "REV", revision)
    if keep and keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise InputError(f"--keep: {keep} is not empty; valid: a new or an empty folder")

    if revision == "HEAD" and changed_files(root, untracked=False):
        print_line("changes that are not committed take no part")
    return tree


def _commit(root: Path, argument: str, revision: str) -> "Tree":
    """The commit that an argument names.

    Raises:
        InputError: for a revision that is no commit.
    """
    from prunelab.core.errors import InputError
    from prunelab.project.revisions import resolve_commits
    from prunelab.project.trees import Tree

    commit = resolve_commits(root, [revision])[revision]
    if commit is None:
        raise InputError(
            f"{argument}: the workspace cannot be cloned; valid: a commit, a branch, an experiment"
        )
    return Tree(root, revision, commit)


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """Where the clones go: a folder to keep, or a temporary one."""
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.resolve()
        return

    with tempfile.TemporaryDirectory(prefix="prunelab-verify-") as folder:
        yield Path(folder)
