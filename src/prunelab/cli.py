"""The `prunelab` command: what is not a stage."""

import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer

from prunelab.studies.commands import app as studies

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Pruning studies that anybody can repeat. The pipeline itself is run by DVC: dvc repro, dvc exp run.",
)

app.add_typer(studies, name="study")


class Kind(StrEnum):
    methods = "methods"
    models = "models"
    datasets = "datasets"


@app.callback()
def _root() -> None:
    pass


@app.command()
def check() -> None:
    """Find everything wrong with params.yaml and the files it names, before any work starts.

    Prints one line per problem and ends with 1 if there are any. `make repro` runs it first.

    Example: prunelab check && dvc repro
    """
    from prunelab.checks import find_problems

    problems = find_problems()
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        raise typer.Exit(1)
    print("params.yaml and the files it names are in order")


@app.command("list")
def list_names(
    what: Annotated[Kind | None, typer.Argument(help="only these", show_default=False)] = None,
) -> None:
    """List the methods, models and data sets there are.

    A method's line says what it judges by, what goes at once, among what, and when; after it, with which weights and by
    which recipe training goes on, unless with its own by the fine-tuning recipe.

    Example: prunelab list methods | grep channel; dvc exp run -S method=taylor_channel_global
    """
    from prunelab.listing import datasets, methods, models

    tables = {Kind.methods: methods, Kind.models: models, Kind.datasets: datasets}
    print("\n\n".join(_aligned(table()) for kind, table in tables.items() if what in (kind, None)))


def _aligned(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
