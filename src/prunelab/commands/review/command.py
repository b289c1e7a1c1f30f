"""`prunelab review`: arguments and output."""

import os
from pathlib import Path, PurePosixPath
from typing import Annotated

from typer import Argument, Exit, Option

from prunelab.commands.common import reporting_errors
from prunelab.core.project_root import argument_path


def review(
    base: Annotated[
        str, Argument(metavar="BASE", help="What to compare with: a commit, branch or experiment.")
    ],
    head: Annotated[
        str, Argument(metavar="HEAD", help="The same, or workspace: the files in this folder.")
    ] = "workspace",
    out: Annotated[
        Path | None,
        Option(
            parser=argument_path,
            metavar="PATH",
            help="Write the document to this file instead of printing it.",
        ),
    ] = None,
    pictures: Annotated[
        Path | None,
        Option(
            parser=argument_path,
            metavar="DIR",
            help="Copy changed pictures here, before and after, and show them.",
        ),
    ] = None,
) -> None:
    """Show as Markdown what a change does to the results.

    Use it for a pull request, on any CI or before it is opened. It shows whether dvc.lock belongs
    to the code, which metrics and parameters changed, which changes are within their 95 % interval,
    the pictures, and the environments of the measurements. It takes seconds, reads Git alone and
    needs no DVC remote, no data and no models. If dvc.lock is stale, it ends with 1 after it has
    shown everything.

    Example:
      prunelab review main --out review.md --pictures pictures
    """
    from prunelab.commands.review.collect import collect, sides
    from prunelab.commands.review.document import document
    from prunelab.commands.review.pictures import check_empty, save
    from prunelab.core.errors import InputError

    with reporting_errors():
        if out and out.is_dir():
            raise InputError(f"--out: {out} is a folder; valid: a file")
        if pictures:
            check_empty(pictures)

        before, after = sides(Path.cwd(), base, head)
        result = collect(before, after)

        if pictures:
            save(result.pictures, pictures, before, after)
        text = document(result, _relative(pictures, out))
        _show(text, out)

    if result.lock.stale:
        raise Exit(1)


def _relative(pictures: Path | None, out: Path | None) -> PurePosixPath | None:
    """The folder of the pictures as a path from where the document lies."""
    if pictures is None:
        return None

    start = Path.cwd()
    if out:
        start = out.parent
    return PurePosixPath(os.path.relpath(pictures, start))


def _show(text: str, out: Path | None) -> None:
    from prunelab.core.files import replacing

    if out is None:
        print(text, end="")
        return

    with replacing(out) as partial:
        partial.write_text(text)
    print(f"written to {out}")
