"""The one way to look a name up in a table."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TypeVar

from prunelab.core.errors import InputError

Entry = TypeVar("Entry")


def pick(table: Mapping[str, Entry], name: str, kind: str) -> Entry:
    """Return `table[name]`.

    Raises:
        InputError: if there is no such entry; the message lists those there are.
    """
    if name in table:
        return table[name]
    close = get_close_matches(name, table, n=1)
    guess = f" (did you mean {close[0]!r}?)" if close else ""
    raise InputError(f"unknown {kind} {name!r}{guess}; valid: {', '.join(table)}")
