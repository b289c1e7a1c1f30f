"""The `prunelab` command: what is not a stage."""

import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer

from prunelab.allocating.command import allocate
from prunelab.studies.commands import app as studies

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Pruning studies that anybody can repeat. The pipeline itself is run by DVC: dvc repro, dvc exp run.",
)

app.add_typer(studies, name="study")
app.command()(allocate)


class Kind(StrEnum):
    methods = "methods"
    models = "models"
    datasets = "datasets"
    layers = "layers"


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
    """List the methods, models and data sets there are; `layers`: those of the model in params.yaml.

    Of methods: criterion (how weights are judged), granularity (what is removed at once), scope (what competes: the
    weights of all layers, of a layer, of a row; or channels: uniform, the same share of every layer, or ranked
    together, as they are or relative to their layer), schedule (when), restart (whose weights and recipe follow the
    last cut, where not the network's own and fine-tuning: weights and rate rewind, init and scratch begin anew).

    Example: prunelab list methods | grep channel; dvc exp run -S method=taylor_channel_global
    """
    from prunelab import listing
    from prunelab.errors import Refused

    tables = {Kind.methods: listing.methods, Kind.models: listing.models, Kind.datasets: listing.datasets}
    chosen = [listing.layers] if what is Kind.layers else [tables[what]] if what else tables.values()
    try:
        print("\n\n".join(_aligned(table()) for table in chosen))
    except Refused as refused:
        print("\n".join(refused.problems), file=sys.stderr)
        raise typer.Exit(1) from None


def _aligned(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
