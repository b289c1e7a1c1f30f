"""`prunelab allocate`."""

from typing import Annotated, Literal

from typer import Option

from prunelab.commands.common import reporting_errors


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
    batch_size: Annotated[int, Option(min=1, help="Of inputs at a time, with --latency.")] = 1,
    rounds: Annotated[
        int, Option(min=2, help="In which networks take turns, with --latency.")
    ] = 12,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Print the table and write nothing.")
    ] = False,
) -> None:
    """Give every layer a ratio of its own, by what metrics/sensitivity.json says that it bears.

    One accuracy is sought that every layer, by itself, may fall to; each loses as much as its curve allows there, and
    all together lose as much of the budget as --ratio everywhere would. Layers that bear more lose more. The ratios
    are written to prune.layer_ratios in params.yaml, where nothing else changes.

    Example: prunelab allocate --ratio 0.5 --budget macs --dry-run
    """
    from prunelab.commands.allocate.allocate import allocated, told, write

    with reporting_errors():
        found = allocated(
            granularity, ratio, budget, latency, batch_size=batch_size, rounds=rounds, tell=_tell
        )
        print(told(found))
        if not dry_run:
            print(write(found))


def _tell(line: str) -> None:
    print(line, flush=True)
