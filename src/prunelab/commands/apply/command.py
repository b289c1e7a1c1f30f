"""`prunelab apply`: arguments and help; `apply_revision` does the work."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from prunelab.commands.common import print_line, reporting_errors


def apply(
    name: Annotated[
        str, Argument(metavar="NAME", help="An experiment, as prunelab compare names it.")
    ],
    stash: Annotated[
        bool, Option("--stash", help="Put edits that are in the way into Git's stash first.")
    ] = False,
) -> None:
    """Bring the parameters and the results of an experiment into this folder, for a commit.

    It changes what the focus depends on: its keys of params.yaml, its entries of dvc.lock, its
    files of results and its networks. Everything else stays, the grid and other edits included. It
    refuses to write over a parameter or a result that no commit and no experiment has.

    `dvc exp apply` checks out the grid of the experiment as well, and fails if that never ran.

    Example:
      prunelab apply mellow-lute
    """
    with reporting_errors():
        from prunelab.commands.apply.apply import apply_revision

        apply_revision(Path.cwd(), name, stash=stash, print_line=print_line)
