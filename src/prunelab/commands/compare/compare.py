"""What `prunelab compare` prints and draws."""

import json
from collections.abc import Sequence
from pathlib import Path

from prunelab.config.params import load_params
from prunelab.core.errors import InputError, one_line
from prunelab.core.escape import escape_markdown
from prunelab.project.revisions import Revision, read_revisions
from prunelab.report import text_table
from prunelab.report.markdown import escaped_table
from prunelab.report.pareto import FASTER, Row, compare, comparison_table, lacking, notes

PICTURES = (".svg", ".png")


def compared(
    root: Path,
    names: Sequence[str],
    cost: str,
    layout: str,
    plot: Path | None,
    latency: int | None = None,
) -> str:
    """The table of these revisions as text, Markdown (md) or json; drawn into `plot` if given.

    With `latency`, a batch size, their networks are measured against their dense ones first.

    Raises:
        InputError: for unknown revisions, if none of them was measured, or `plot` is no picture that can be drawn.
    """
    if plot and plot.suffix not in PICTURES:
        raise InputError(
            f"--plot: {plot} is no name of a picture; valid endings: {', '.join(PICTURES)}"
        )
    found, without = read_revisions(root, names)
    without |= {
        one.name: f"its metrics lack {', '.join(lacking(one))}" for one in found if lacking(one)
    }
    rows = compare([one for one in found if not lacking(one)], cost)
    if not rows:
        raise InputError(
            f"{name} has nothing to compare: {reason}" for name, reason in without.items()
        )
    told = _timed(root, found, rows, latency) if latency else []
    if plot:
        from prunelab.figures.pareto_figure import comparison
        from prunelab.report.style import save_as

        save_as(comparison(rows, cost, f"{len(rows)} revisions: accuracy against cost"), plot)
    if layout == "json":
        return json.dumps(
            {"cost": cost, "rows": rows, "left_out": without, "measured": told}, indent=1
        )
    draw, word = (
        (escaped_table, escape_markdown) if layout == "md" else (text_table.aligned_table, str)
    )
    known = [*notes(rows, without, cost, word), *told]
    return "\n".join(
        [draw(*comparison_table(rows)), "", *(one_line(f"- {note}") for note in known)]
    )


def _timed(
    root: Path, found: Sequence[Revision], rows: Sequence[Row], batch_size: int
) -> list[str]:
    """Measure the networks of the rows, put into each row what came out, and return what to know about it."""
    from prunelab.commands.compare.revision_latency import time_revisions

    named = {one.name: one for one in found}
    timed = time_revisions(
        root, [named[row["name"]] for row in rows], load_params().runtime, batch_size
    )
    for row in rows:
        row |= timed.faster.get(row["name"], {})
    return [
        f"{FASTER}: how many times, with its 95 % interval; batches of {batch_size}, first seed, all networks in turn, "
        f"measured now on this machine: {timed.where}",
        *(f"{name} was not measured: {reason}" for name, reason in timed.without.items()),
    ]
