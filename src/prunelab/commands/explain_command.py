"""`prunelab explain`: arguments and help; explain.py finds what is printed."""

from typing import Annotated

from typer import Argument

from prunelab.commands.common import reporting_errors


def explain(
    name: Annotated[
        str, Argument(metavar="NAME", help="A method, criterion, model, ..., of prunelab list.")
    ],
) -> None:
    """Explain a name: what it does, the formula, its source, and what it needs.

    It knows methods, criteria, granularities, scopes, schedules, budgets, models, data sets,
    augmentations, metrics and learning-rate schedules, those of plugins/ included.

    Example:
      prunelab explain lamp_channel
    """
    with reporting_errors():
        from prunelab.commands.explain import explain_name

        print(explain_name(name))
