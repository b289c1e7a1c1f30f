"""What `prunelab compare` prints and draws."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap

from prunelab.config.params import load_params
from prunelab.core.errors import InputError, one_line
from prunelab.core.escape import escape_markdown
from prunelab.project.revisions import HEAD, WORKSPACE, RevisionResult, read_revisions
from prunelab.report.markdown import escaped_table
from prunelab.report.pareto import (
    CHANGED,
    FASTER,
    FRONT,
    METHOD,
    REVISION,
    Row,
    compare,
    comparison_table,
    in_order,
    lacking,
    notes,
)
from prunelab.report.text_table import WIDE, narrow_table

PICTURE_SUFFIXES = (".svg", ".png")
WHOLE_NAMES = "whole names: "  # of revisions that take several lines in the table
APPLY_HINT = "`prunelab apply REVISION` brings its parameters and results into this folder"


def compare_revisions(
    root: Path,
    names: Sequence[str],
    *,
    cost: str,
    layout: str,
    plot: Path | None = None,
    latency_batch_size: int | None = None,
) -> str:
    """Return the comparison of revisions as `text`, Markdown (`md`) or `json`.

    `plot` is a file into which the comparison is drawn. With `latency_batch_size`, the networks of
    the revisions are measured against their dense networks first.

    Raises:
        InputError: for unknown revisions, if no revision has metrics, or if `plot` does not have
            the name of a picture.
    """
    if plot and plot.suffix not in PICTURE_SUFFIXES:
        raise InputError(
            f"--plot: {plot} does not have the name of a picture; "
            f"valid endings: {', '.join(PICTURE_SUFFIXES)}"
        )

    revisions, left_out = _complete_revisions(root, names)
    rows = compare(revisions, cost)
    if not rows:
        raise InputError(
            f"{name} has nothing to compare: {reason}" for name, reason in left_out.items()
        )
    rows = in_order(rows)

    latency_notes: list[str] = []
    if latency_batch_size:
        latency_notes = _add_latency(root, revisions, rows, latency_batch_size)
    if plot:
        _draw(rows, cost, plot)

    if layout == "json":
        content = {"cost": cost, "rows": rows, "left_out": left_out, "measured": latency_notes}
        return json.dumps(content, indent=1)
    return document(rows, left_out, cost, latency_notes, markdown=layout == "md")


def _complete_revisions(
    root: Path, names: Sequence[str]
) -> tuple[list[RevisionResult], Mapping[str, str]]:
    """Return the revisions that have all metrics, and why others are left out, by name."""
    revisions, left_out = read_revisions(root, names)

    complete = []
    for revision in revisions:
        missing = lacking(revision)
        if missing:
            left_out[revision.name] = f"its metrics lack {', '.join(missing)}"
        else:
            complete.append(revision)

    return complete, left_out


def _add_latency(
    root: Path, revisions: Sequence[RevisionResult], rows: Sequence[Row], batch_size: int
) -> list[str]:
    """Measure the networks of the rows, add the results to the rows, and return notes on them."""
    from prunelab.commands.compare.revision_latency import time_revisions

    runtime = load_params().runtime
    result = time_revisions(root, revisions, runtime, batch_size)
    for row in rows:
        row.update(result.faster.get(row["name"], {}))

    lines = [
        f"{FASTER}: how many times, with its 95 % interval; batches of {batch_size}, first seed, "
        f"all networks in turn, measured now on this machine: {result.machine}"
    ]
    for name, reason in result.not_measured.items():
        lines.append(f"{name} was not measured: {reason}")
    return lines


def _draw(rows: Sequence[Row], cost: str, file: Path) -> None:
    from prunelab.figures.pareto_figure import comparison
    from prunelab.figures.save import save_as

    title = f"{len(rows)} revisions: accuracy against cost"
    save_as(comparison(rows, cost, title), file)


def document(
    rows: Sequence[Row],
    left_out: Mapping[str, str],
    cost: str,
    latency_notes: Sequence[str],
    *,
    markdown: bool,
) -> str:
    """Return the table of the rows, in Markdown or for a terminal, with the notes below it.

    `left_out` has the reason why a revision is not in the table, by name.
    """
    header, lines = comparison_table(rows, cost)

    if markdown:
        table = escaped_table(header, lines)
        all_notes = notes(rows, left_out, cost, escape_markdown)
    else:
        table = _text_table(header, lines)
        all_notes = notes(rows, left_out, cost, str)
        # A name that takes several lines cannot be copied from the table.
        folded = [row["name"] for row in rows if one_line(row["name"]) not in table]
        if folded:
            all_notes.append(f"{WHOLE_NAMES}{', '.join(folded)}")

    all_notes = [*all_notes, *latency_notes]
    if any(row["name"] not in (WORKSPACE, HEAD) for row in rows):
        all_notes.append(APPLY_HINT)

    parts = [table, ""]
    for note in all_notes:
        line = one_line(f"- {note}")
        if markdown:
            parts.append(line)
        else:
            parts += wrap(line, WIDE, subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(parts)


def _text_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return the table for a terminal, with what changed below each row."""
    titles, cells = list(header), [list(line) for line in lines]
    place = titles.index(CHANGED)
    titles.pop(place)
    changes = [line.pop(place) for line in cells]
    flexible = {REVISION, METHOD, *titles[titles.index(FRONT) + 1 :]}
    return narrow_table(titles, cells, WIDE, flexible=flexible, below=changes)
