"""`prunelab list`: arguments, help and what is printed; list_choices.py makes the tables."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

from typer import Argument, Option

from prunelab.commands.common import reporting_errors


class Kind(StrEnum):
    """What there is to list."""

    methods = "methods"
    models = "models"
    datasets = "datasets"
    layers = "layers"


def list_names(
    what: Annotated[Kind | None, Argument(help="Only these.", show_default=False)] = None,
    *,
    every: Annotated[
        bool, Option("--all", help="List the networks of torchvision among the models, too.")
    ] = False,
) -> None:
    """List the methods, models and data sets; `layers` lists those of the model in params.yaml.

    What the project registers in plugins/ comes last, with its file.

    The columns of a method: criterion (how weights are scored), granularity (what is removed
    together), scope (what competes), schedule (when pruning happens) and restart (how training
    continues after the last step; empty: the network's own weights and fine-tuning).

    Scopes of weights are all layers, a layer or a row. Scopes of channels are uniform (the same
    share of every layer) or a ranking of all layers, by plain scores or relative to the layer.
    Restarts are weights and rate (both rewind), init and scratch (both train from the beginning).

    Example: prunelab list methods | grep channel; dvc exp run -S method=taylor_channel_global
    """
    from prunelab.commands import list_choices

    tables = {
        Kind.methods: list_choices.methods,
        Kind.models: list_choices.all_models if every else list_choices.models,
        Kind.datasets: list_choices.datasets,
    }
    if what is Kind.layers:
        chosen = [list_choices.layers]
    elif what is not None:
        chosen = [tables[what]]
    else:
        chosen = list(tables.values())

    with reporting_errors():
        print("\n\n".join(_align(table()) for table in chosen))


def _align(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
