"""Markdown for comments and tables: folded sections, pictures, links, tables of limited length."""

from collections.abc import Sequence
from html import escape
from pathlib import PurePosixPath
from urllib.parse import quote

from prunelab.core.escape import escape_markdown
from prunelab.report import text_table

MAX_ROWS = 150  # of a table: a comment on GitHub may have 65,536 characters


def escaped_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table whose cells may contain names that other people chose."""
    escaped = [list(map(escape_markdown, line)) for line in lines]
    return text_table.markdown_table(list(header), escaped)


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """The first `MAX_ROWS` rows of a table, and how many more there are."""
    shown = list(map(list, lines[:MAX_ROWS]))
    drawn = text_table.markdown_table(list(header), shown)

    if len(lines) <= MAX_ROWS:
        return drawn
    return f"{drawn}\n\n… and {len(lines) - MAX_ROWS:,} more rows."


def details_block(summary: str, *parts: str) -> str:
    """A section that opens on a click. `summary` is plain text; `parts` are Markdown."""
    return "\n\n".join([f"<details>\n<summary>{escape(summary)}</summary>", *parts, "</details>"])


def link(text: str, path: PurePosixPath) -> str:
    """A link to a file of the repository; `text` is Markdown."""
    return f"[{text}]({quote(str(path))})"


def image(text: str, path: PurePosixPath) -> str:
    """A picture of the repository; `text` is shown if it cannot be loaded."""
    return f"!{link(text, path)}"
