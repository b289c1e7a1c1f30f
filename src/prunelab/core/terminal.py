"""Colours of a terminal. A pipe or a file gets plain text, and so does everybody with NO_COLOR."""

import os
import re
import sys
from typing import Literal, TextIO

Style = Literal["bold", "dim", "green", "yellow", "red"]

_CODES: dict[Style, int] = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33}
_RULE = re.compile(r"-+(  +-+)+")  # the line between the titles of a table and its rows


def has_colours(stream: TextIO | None = None) -> bool:
    """Whether a stream, standard output by default, is a terminal that may show colours.

    It may not if the variable NO_COLOR is not empty (https://no-color.org), or TERM is dumb.
    """
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return (stream or sys.stdout).isatty()


def paint(text: str, style: Style, stream: TextIO | None = None) -> str:
    """The text in a style, if the stream has colours."""
    if not has_colours(stream) or not text:
        return text
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m"


def paint_tables(text: str, stream: TextIO | None = None) -> str:
    """A text with its tables' titles in bold and the line below them dim, if there are colours.

    Titles are the lines directly above a line of dashes.
    """
    lines = text.split("\n")
    for index, line in enumerate(lines):
        if not _RULE.fullmatch(line):
            continue

        lines[index] = paint(line, "dim", stream)
        above = index - 1
        while above >= 0 and lines[above].strip():
            lines[above] = paint(lines[above], "bold", stream)
            above -= 1
    return "\n".join(lines)
