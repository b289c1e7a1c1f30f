"""Words that others wrote, fit for Markdown: no markup, no mentions, no cells of their own."""

import re
from typing import Any

LETTERS = 100  # of a value
HARMLESS = re.compile(
    r"(?!.*(www\.|\b_|_\b))[\w ,.;()%+=±†‡/-]*"
)  # nothing here is markup, a mention or a link


def as_code(value: Any) -> str:
    """Any value as code on one line. Markup is dead in a code span, but for what ends it or a table's cell."""
    text = " ".join(
        "".join(letter if letter.isprintable() else " " for letter in str(value)).split()
    )
    text = text if len(text) <= LETTERS else f"{text[:LETTERS]}…"
    if not text:
        return ""
    if set(text) & set("`|\\"):
        return (
            "<code>"
            + "".join(one if one.isalnum() or one == " " else f"&#{ord(one)};" for one in text)
            + "</code>"
        )
    return f"`{text}`"


def escape_markdown(value: Any) -> str:
    """Any value as it is, if no letter of it could be markup; else as code."""
    return str(value) if HARMLESS.fullmatch(str(value)) else as_code(value)
