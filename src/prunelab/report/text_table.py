"""Tables as plain text: aligned for a terminal, or in Markdown."""

from collections.abc import Sequence

from prunelab.core.errors import one_line

Line = list[str]


def markdown_table(header: Line, lines: Sequence[Line]) -> str:
    rows = [header, [":--"] * len(header), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def aligned_table(header: Line, lines: Sequence[Line]) -> str:
    """The same in plain text; what is not printable is spelt out."""
    header, lines = (
        [one_line(cell) for cell in header],
        [[one_line(cell) for cell in line] for line in lines],
    )
    widths = [max(len(row[place]) for row in [header, *lines]) for place in range(len(header))]
    rows = [header, ["-" * width for width in widths], *lines]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
