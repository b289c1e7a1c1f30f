"""Markdown in which words that others wrote stay words: no markup, no mentions, no cells of their own."""

import re
from collections.abc import Sequence
from html import escape
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from prunelab.studies import tables

ROWS = 150  # of a table: a comment on GitHub bears 65,536 characters
LETTERS = 100  # of a value
NAMED = 5  # of what one line counts
HARMLESS = re.compile(r"(?!.*(www\.|\b_|_\b))[\w ,.;()%+=±†‡/-]*")  # nothing here is markup, a mention or a link


def code(value: Any) -> str:
    """Any value as code on one line. Markup is dead in a code span, but for what ends it or a table's cell."""
    words = " ".join("".join(letter if letter.isprintable() else " " for letter in str(value)).split())
    words = words if len(words) <= LETTERS else f"{words[:LETTERS]}…"
    if not words:
        return ""
    if set(words) & set("`|\\"):
        return "<code>" + "".join(one if one.isalnum() or one == " " else f"&#{ord(one)};" for one in words) + "</code>"
    return f"`{words}`"


def words(value: Any) -> str:
    """Any value as it is, if no letter of it could be markup; else as code."""
    return str(value) if HARMLESS.fullmatch(str(value)) else code(value)


def worded(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table of cells that may hold what others wrote."""
    return tables.markdown(list(header), [[words(cell) for cell in line] for line in lines])


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """The first rows of a table, and how many more there are."""
    drawn = tables.markdown(list(header), [list(line) for line in lines[:ROWS]])
    return drawn if len(lines) <= ROWS else f"{drawn}\n\n… and {len(lines) - ROWS:,} more rows."


def some(names: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def folded(summary: str, *parts: str) -> str:
    """A section that opens when it is clicked on; its summary is plain text."""
    return "\n\n".join([f"<details>\n<summary>{escape(summary)}</summary>", *parts, "</details>"])


def link(text: str, path: PurePosixPath) -> str:
    return f"[{text}]({quote(str(path))})"


def image(text: str, path: PurePosixPath) -> str:
    return f"!{link(text, path)}"
