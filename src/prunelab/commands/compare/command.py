"""`prunelab compare`: arguments and help; `compare_revisions` does the work."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from prunelab.commands.common import reporting_errors
from prunelab.core.project_root import argument_path


class Cost(StrEnum):
    macs = "macs"
    params_nonzero = "params_nonzero"
    size_compressed_bytes = "size_compressed_bytes"


class Layout(StrEnum):
    text = "text"
    md = "md"
    json = "json"


def compare(
    revisions: Annotated[
        list[str] | None,
        Argument(metavar="REV", help="workspace, a commit or an experiment.", show_default=False),
    ] = None,
    cost: Annotated[Cost, Option(help="What accuracy is weighed against.")] = Cost.macs,
    layout: Annotated[Layout, Option("--format", help="How to print it.")] = Layout.text,
    plot: Annotated[
        Path | None,
        Option(
            parser=argument_path,
            metavar="PATH",
            help="Also draw accuracy against cost into this .svg or .png.",
        ),
    ] = None,
    latency: Annotated[
        int | None,
        Option(
            min=1, metavar="BATCH", help="Also measure latency here and now, at this batch size."
        ),
    ] = None,
) -> None:
    """Compare the focus in the workspace, in Git's commits and in DVC's experiments, a row each.

    Without REV: the workspace, HEAD and all experiments derived from HEAD. The first row is the
    reference. The others follow from most to least cost, with the parameters in which they differ
    from it. A row with other data or another dense network (dataset, model, weights, seeds, data,
    train) is marked, not compared and comes last.

    In the column `best within`, 1/4 marks the most accurate row of those that cost at most a
    quarter of the dense network, with a tolerance of 1 %. The same holds for 1/2, 1/8 and so on.

    Times measured on different days or machines cannot be compared. With --latency, all networks
    are taken from DVC's cache or remote and measured in one process, in turn with their dense ones.

    `prunelab apply REV` brings the parameters and results of a row into this folder.

    Example:
      prunelab compare HEAD~1 HEAD --cost params_nonzero --plot costs.svg
    """
    with reporting_errors():
        from prunelab.commands.compare.compare import compare_revisions
        from prunelab.core.terminal import paint_tables

        comparison = compare_revisions(
            Path.cwd(),
            revisions or [],
            cost=cost.value,
            layout=layout.value,
            plot=plot,
            latency_batch_size=latency,
        )
        print(paint_tables(comparison))
