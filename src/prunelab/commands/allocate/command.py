"""`prunelab allocate`: arguments, help and what is printed; `allocate_ratios` does the work."""

from typing import Annotated, Literal

from typer import Option

from prunelab.commands.common import print_line, reporting_errors
from prunelab.core.terminal import paint_tables


def allocate(
    ratio: Annotated[
        float | None, Option(help="Share to remove of what --budget names, above 0 and below 1.")
    ] = None,
    latency: Annotated[
        float | None, Option(help="Share of the latency to remove instead, measured here.")
    ] = None,
    granularity: Annotated[
        Literal["weight", "channel", "head", "hidden"],
        Option(help="What is removed; encoders have heads and hidden."),
    ] = "channel",
    budget: Annotated[
        Literal["native", "params", "macs"],
        Option(help="native: the units themselves, as `budget` has it."),
    ] = "native",
    batch_size: Annotated[int, Option(min=1, help="Inputs at a time, with --latency.")] = 1,
    rounds: Annotated[
        int, Option(min=2, help="Rounds in which networks take turns, with --latency.")
    ] = 12,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Print the table and write nothing.")
    ] = False,
) -> None:
    """Give every layer its own ratio, by its sensitivity in metrics/sensitivity.json.

    The command finds one accuracy to which every layer, pruned by itself, may fall. Each layer
    loses as much as its curve allows at that accuracy, so less sensitive layers lose more. All
    layers together lose the share --ratio of the budget. The ratios are written to
    prune.layer_ratios in params.yaml, where nothing else changes.

    Example:
      prunelab allocate --ratio 0.5 --budget macs --dry-run
    """
    from prunelab.commands.allocate.allocate import (
        Request,
        allocate_ratios,
        describe,
        describe_next_steps,
        write_ratios,
    )

    with reporting_errors():
        request = Request(granularity, ratio, budget, latency, batch_size, rounds)
        allocation = allocate_ratios(request, print_line)
        print(paint_tables(describe(allocation)))
        if not dry_run:
            write_ratios(allocation)
            print(f"\n{describe_next_steps(allocation)}")
