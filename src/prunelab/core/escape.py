"""Foreign text in Markdown: it adds no markup, no mentions, no links and no table cells."""

import re
from typing import Any

from prunelab.core.text import truncate

MAX_CODE_LENGTH = 100  # characters of a value
# Text in which nothing can be markup, a mention or a link.
HARMLESS = re.compile(r"(?!.*(www\.|\b_|_\b))[\w ,.;()%+=±†‡/-]*")
ENDS_CODE = set("`|\\")  # what would end a code span, or the table cell around it


def escape_markdown(value: Any) -> str:
    """Any value as it is if it is harmless, otherwise as code."""
    text = str(value)
    if HARMLESS.fullmatch(text):
        return text
    return as_code(text)


def as_code(value: Any) -> str:
    """Any value as code on one line of at most 100 characters; empty for blank text."""
    printable = [character if character.isprintable() else " " for character in str(value)]
    text = truncate(" ".join("".join(printable).split()), MAX_CODE_LENGTH)
    if not text:
        return ""

    if not ENDS_CODE & set(text):
        return f"`{text}`"
    entities = [_entity(character) for character in text]
    return f"<code>{''.join(entities)}</code>"


def _entity(character: str) -> str:
    if character.isalnum() or character == " ":
        return character
    return f"&#{ord(character)};"
