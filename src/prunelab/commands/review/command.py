"""`prunelab review`."""

import os
from pathlib import Path, PurePosixPath
from typing import Annotated

from typer import Argument, Exit, Option

from prunelab.commands.common import reporting_errors


def review(
    base: Annotated[
        str, Argument(metavar="BASE", help="What to hold against: a commit, branch or experiment.")
    ],
    head: Annotated[
        str, Argument(metavar="[HEAD]", help="The same, or workspace: the files as they lie here.")
    ] = ("workspace"),
    out: Annotated[
        Path | None, Option(help="Write the document to this file instead of printing it.")
    ] = None,
    pictures: Annotated[
        Path | None,
        Option(metavar="DIR", help="Copy changed pictures here, before and after, and show them."),
    ] = None,
) -> None:
    """Tell as Markdown what a change does to the results: for a pull request, on any CI, or here before it is opened.

    Whether dvc.lock belongs to the code (if not, the command ends with 1, after it has told everything); metrics and
    parameters that changed, and which changes are within their 95 % interval; pictures; what the numbers were measured
    on. It takes seconds, reads Git alone and needs no DVC remote, no data and no models.

    Example: prunelab review main --out review/review.md --pictures review/pictures
    """
    from prunelab.commands.review.collect import findings, sides
    from prunelab.commands.review.document import document
    from prunelab.commands.review.pictures import save, usable
    from prunelab.core.errors import InputError
    from prunelab.core.files import replacing

    with reporting_errors():
        if out and out.is_dir():
            raise InputError(f"--out: {out} is a folder; valid: a file")
        if pictures:
            usable(pictures)
        before, after = sides(Path.cwd(), base, head)
        found = findings(before, after)
        if pictures:
            save(found.pictures, pictures, before, after)
        start = out.parent if out else Path.cwd()
        place = PurePosixPath(os.path.relpath(pictures, start)) if pictures else None
        text = document(found, place)
        if out:
            with replacing(out) as partial:
                partial.write_text(text)
        print(f"written to {out}" if out else text, end="\n" if out else "")
    if found.lock.stale:
        raise Exit(1)
