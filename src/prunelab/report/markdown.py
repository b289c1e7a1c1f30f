"""The Markdown of comments and tables: parts that fold, pictures, links, and no more rows than a page bears."""

from collections.abc import Sequence
from html import escape
from pathlib import PurePosixPath
from urllib.parse import quote

from prunelab.core.escape import escape_markdown
from prunelab.report import text_table

ROWS = 150  # of a table: a comment on GitHub bears 65,536 characters
NAMED = 5  # of what one line counts


def escaped_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table of cells that may hold what others wrote."""
    return text_table.markdown_table(
        list(header), [[escape_markdown(cell) for cell in line] for line in lines]
    )


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """The first rows of a table, and how many more there are."""
    drawn = text_table.markdown_table(list(header), [list(line) for line in lines[:ROWS]])
    return drawn if len(lines) <= ROWS else f"{drawn}\n\n… and {len(lines) - ROWS:,} more rows."


def abbreviate(names: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def details_block(summary: str, *parts: str) -> str:
    """A section that opens when it is clicked on; its summary is plain text."""
    return "\n\n".join([f"<details>\n<summary>{escape(summary)}</summary>", *parts, "</details>"])


def link(text: str, path: PurePosixPath) -> str:
    return f"[{text}]({quote(str(path))})"


def image(text: str, path: PurePosixPath) -> str:
    return f"!{link(text, path)}"
