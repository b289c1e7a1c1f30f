"""`prunelab list`: arguments, help and what is printed; list_choices.py makes the tables."""

from collections.abc import Sequence
from enum import StrEnum
from textwrap import wrap
from typing import Annotated

from typer import Argument, Option

from prunelab.commands.common import reporting_errors

PLUGIN = "plugin"  # the heading of the files of plugins


class Kind(StrEnum):
    """What there is to list."""

    methods = "methods"
    criteria = "criteria"
    budgets = "budgets"
    models = "models"
    datasets = "datasets"
    augmentations = "augmentations"
    metrics = "metrics"
    lr_schedules = "lr_schedules"
    layers = "layers"


def list_names(
    what: Annotated[
        Kind | None,
        Argument(metavar="KIND", help=f"Only one of: {', '.join(Kind)}.", show_default=False),
    ] = None,
    *,
    every: Annotated[
        bool, Option("--all", help="List those of torchvision and timm among the models, too.")
    ] = False,
    fits: Annotated[
        bool, Option("--fits", help="Only methods that fit the network in params.yaml.")
    ] = False,
) -> None:
    """List what there is to choose from; `layers` lists those of the network in params.yaml.

    What the project registers in plugins/ comes last, with its file.

    The columns of a method: criterion (how weights are scored), granularity (what is removed
    together), scope (what competes) and schedule (when pruning happens). After a comma follows how
    training continues after the last step, if not with the network's own weights and fine-tuning.
    `prunelab explain NAME` says what each is.

    Example:
      prunelab list methods --fits
    """
    from prunelab.commands import list_choices

    with reporting_errors():
        if fits:
            print(_fitting_methods(what))
        elif what is None:
            print(list_choices.overview())
        elif what is Kind.models and every:
            print(_align(list_choices.all_models()))
        else:
            print(_align(list_choices.DESCRIBED[what]()))


def _fitting_methods(what: Kind | None) -> str:
    """The methods that fit the network, and the reasons why others do not.

    Raises:
        InputError: if something else than methods is asked for, or the network cannot be made.
    """
    from prunelab.commands import list_choices
    from prunelab.commands.list_choices import TEXT_WIDTH
    from prunelab.commands.list_fits import misfits
    from prunelab.core.errors import InputError
    from prunelab.pruning.methods import METHODS

    if what not in (None, Kind.methods):
        raise InputError(
            f"--fits is about methods, not {what}; valid: prunelab list methods --fits"
        )
    misfitting = misfits()
    unfit = {name for names in misfitting.values() for name in names}
    fitting = [name for name in METHODS if name not in unfit]
    lines = [_align(list_choices.methods(fitting))]
    if unfit:
        lines += ["", "These do not fit:"]
        for reason, names in misfitting.items():
            text = f"  {reason}: {', '.join(names)}"
            lines += wrap(text, TEXT_WIDTH, subsequent_indent="    ", break_on_hyphens=False)
    return "\n".join(lines)


def _align(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows in columns, within `MAX_WIDTH` characters; a row of one cell has a line to itself.

    The last column takes several lines if it must. The file of a plugin is on a line of its own.
    """
    from prunelab.report.text_table import GAP, INDENT, MAX_WIDTH

    has_files = rows[0][-1] == PLUGIN
    columns = len(rows[0]) - has_files
    table = [row[:columns] for row in rows if len(row) > 1]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)][:-1]
    indent = " " * (sum(widths) + len(GAP) * len(widths))

    lines = []
    for row in rows:
        if len(row) == 1:
            lines.append(row[0])
            continue
        *cells, text = row[:columns]
        padded = [f"{cell:<{width}}{GAP}" for cell, width in zip(cells, widths, strict=True)]
        parts = wrap(text, MAX_WIDTH - len(indent), break_on_hyphens=False) or [""]
        lines.append(("".join(padded) + parts[0]).rstrip())
        lines += [indent + part for part in parts[1:]]
        if has_files and row[-1] not in ("", PLUGIN):
            lines.append(INDENT + row[-1])
    return "\n".join(lines)
