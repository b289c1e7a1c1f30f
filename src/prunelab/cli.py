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


@app.command()
def export(
    form: Annotated[str, typer.Argument(metavar="FORMAT", help="onnx, or pt2 (torch.export's).")],
    model_file: Annotated[
        Path | None,
        typer.Argument(help="A network under models/.  [default: the focus of the first seed]"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Where to write it.  [default: a name of its own in exports/]"),
    ] = None,
    with_preprocessing: Annotated[
        bool,
        typer.Option(
            "--with-preprocessing", help="The file takes pixels 0 to 1 and normalises them itself."
        ),
    ] = False,
    rounds: Annotated[
        int, typer.Option(min=0, help="Of the comparison of speed, 2 or more; 0: none.")
    ] = 10,
) -> None:
    """Write a network as ONNX or in torch.export's format, for batches of any size, and check what was written.

    Its scores are compared with the network's on several batch sizes: a file that differs by more than 1e-4 of the
    largest score, or names another class anywhere, is not kept. Its metadata hold the network's card, what it takes
    (images: float32 NCHW, normalised as in training; texts: int64 ids) and the names of the classes. Latency is
    compared on the CPU, eager torch and the file taking turns, with `runtime.threads` and `channels_last`.
    ONNX needs the extra: pip install prunelab[onnx].

    Example: prunelab export onnx models/focus/finetuned/0.safetensors --out digits.onnx
    """
    with reporting_errors():
        from prunelab.commands.export.command import deliver

        for line in deliver(form, model_file, out, preprocessing=with_preprocessing, rounds=rounds):
            print(line, flush=True)


class Cost(StrEnum):
    macs = "macs"
    params_nonzero = "params_nonzero"
    size_compressed_bytes = "size_compressed_bytes"


class Layout(StrEnum):
    text = "text"
    md = "md"
    json = "json"


@app.command()
def compare(
    revisions: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[REV]...", help="workspace, commits, experiments.", show_default=False
        ),
    ] = None,
    cost: Annotated[Cost, typer.Option(help="What accuracy is weighed against.")] = Cost.macs,
    layout: Annotated[Layout, typer.Option("--format", help="How to print it.")] = Layout.text,
    plot: Annotated[
        Path | None, typer.Option(help="Draw accuracy against cost into this .svg or .png too.")
    ] = None,
    latency: Annotated[
        int | None,
        typer.Option(min=1, metavar="BATCH", help="Measure here and now, too, at this batch size."),
    ] = None,
) -> None:
    """Compare the focus in the workspace, in Git's commits and in DVC's experiments, a row each.

    Without REV: the workspace, HEAD and all experiments derived from HEAD. The first is what the others are held
    against: parameters are printed where they differ from its own, and rows whose data or dense network are others
    (dataset, model, weights, seeds, data, train) are marked, and take no part in what follows. `front`: no other row
    is as accurate at less cost, or more accurate at no more. `best at 1/4`: the most accurate row of those that cost
    at most a quarter of the dense network (and 1 %, as ratios are met); so for 1/2, 1/8, and on while there are any.
    Times measured on different days or machines cannot be compared, so --latency takes the networks out of DVC's cache
    (or remote) and measures all of them in one process, in turn with the dense ones they were pruned from.

    Example: prunelab compare HEAD~1 HEAD --cost params_nonzero --plot compare.svg
    """
    with reporting_errors():
        from prunelab.commands.compare.compare import compared

        print(compared(Path.cwd(), revisions or [], cost.value, layout.value, plot, latency))
