"""Tables as text: aligned for a terminal, or in Markdown."""

from collections.abc import Sequence

from prunelab.core.errors import one_line

Line = list[str]


def markdown_table(header: Line, lines: Sequence[Line]) -> str:
    """A table in Markdown. Cells go in as they are: escape what other people named."""
    rows = [header, [":--"] * len(header), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def aligned_table(header: Line, lines: Sequence[Line]) -> str:
    """A table in plain text, with unprintable characters spelt out."""
    rows = [list(map(one_line, line)) for line in (header, *lines)]

    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])

    aligned = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        aligned.append("  ".join(cells).rstrip())
    return "\n".join(aligned)
