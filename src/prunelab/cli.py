"""The `prunelab` command: what is not a stage."""

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from prunelab.commands.allocate.command import allocate
from prunelab.commands.common import reporting_errors
from prunelab.commands.compare.command import compare
from prunelab.commands.export.command import export
from prunelab.commands.push import push
from prunelab.commands.repro.command import repro
from prunelab.commands.review.command import review
from prunelab.commands.studies.command import app as studies
from prunelab.commands.sweep.command import sweep
from prunelab.commands.verify.command import verify

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Pruning studies that anybody can repeat. The pipeline itself is run by DVC: dvc repro, dvc exp run.",
)

app.add_typer(studies, name="study")
app.command()(allocate)
app.command()(review)
app.command()(repro)
app.command()(push)
app.command()(sweep)
app.command()(verify)


class Kind(StrEnum):
    methods = "methods"
    models = "models"
    datasets = "datasets"
    layers = "layers"


# By these Git tells hooks and aliases which repository they run in; it would take clones of ours for the same one.
WHICH_REPOSITORY = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_COMMON_DIR",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
)


@app.callback()
def _root() -> None:
    for name in WHICH_REPOSITORY:
        os.environ.pop(name, None)


@app.command()
def check() -> None:
    """Find everything wrong with params.yaml and the files it names, before any work starts.

    Prints one line per problem and ends with 1 if there are any. `make repro` runs it first. What a killed DVC may
    leave behind and stumble over is cleared: a dvc.lock cut short, files marked as in use by a process that is gone.

    Example: prunelab check && dvc repro
    """
    from prunelab.commands.check import find_problems
    from prunelab.project.recovery import repair

    with reporting_errors():
        for line in repair(Path.cwd()):
            print(line)
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
    from prunelab.commands import list_choices

    tables = {
        Kind.methods: list_choices.methods,
        Kind.models: list_choices.models,
        Kind.datasets: list_choices.datasets,
    }
    chosen = (
        [list_choices.layers]
        if what is Kind.layers
        else [tables[what]]
        if what
        else tables.values()
    )
    with reporting_errors():
        print("\n\n".join(_aligned(table()) for table in chosen))


def _aligned(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


app.command()(export)
app.command()(compare)
