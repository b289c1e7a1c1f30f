"""The `prunelab` command: what is not a stage."""

import sys

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
def list_names() -> None:
    """List the methods, models and data sets there are.

    Example: dvc exp run -S method=l2_channel -S ratio=0.7
    """
    from prunelab.data.datasets import DATASETS
    from prunelab.models.catalogue import MODELS
    from prunelab.pruning.methods import METHODS

    for kind, table in (("methods", METHODS), ("models", MODELS), ("datasets", DATASETS)):
        print(f"{kind}: {', '.join(table)}")
