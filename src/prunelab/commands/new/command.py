"""`prunelab new`: arguments and help; new.py does the work."""

from pathlib import Path
from typing import Annotated

from typer import Option

from prunelab.commands.common import print_line, reporting_errors


def new(
    images: Annotated[
        str | None,
        Option(metavar="FOLDER", help="Photographs: a folder with one folder per class."),
    ] = None,
    table: Annotated[
        str | None,
        Option(
            metavar="FILE", help="A .csv or .tsv with the labels, if there are no class folders."
        ),
    ] = None,
    texts: Annotated[
        str | None, Option(metavar="FILE", help="Texts: a .csv or .tsv with texts and labels.")
    ] = None,
    model: Annotated[
        str | None,
        Option(metavar="NAME", help="The network.  [default: chosen by the size of the images]"),
    ] = None,
    weights: Annotated[
        str | None,
        Option(
            metavar="NAME",
            help="What it starts from: none, imagenet or a file.  [default: none, or imagenet for "
            "photographs if --model is left out and the extra lite is installed]",
        ),
    ] = None,
    force: Annotated[
        bool, Option("--force", help="Replace an edited params.yaml; a copy of it is kept.")
    ] = False,
) -> None:
    """Write a study of your own photographs or texts, and say what was chosen and why.

    In a folder without a dvc.yaml it first writes a whole project: the pipeline, parameters, a Git
    repository and what DVC needs. With --images or --texts it looks at the data, writes a
    params.yaml that fits, and checks it as `prunelab check` does. Without both, the project is the
    study of handwritten digits.

    Example:
      prunelab new --images photos
      prunelab new --images photos --model torchvision/resnet18
    """
    with reporting_errors():
        from prunelab.commands.new.new import NEXT, Request
        from prunelab.commands.new.new import new as make

        request = Request(images, table, texts, model, weights, force)
        for line in make(Path.cwd(), request):
            print_line(line)
        if not images and not texts:
            return

        from prunelab.commands.check.notes import find_notes

        for line in (*find_notes(), NEXT):
            print_line(line)
