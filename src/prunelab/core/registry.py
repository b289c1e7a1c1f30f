"""The one way to look a name up in a table."""

from collections.abc import Mapping
from typing import TypeVar

from prunelab.core.errors import InputError
from prunelab.core.text import did_you_mean

Entry = TypeVar("Entry")


def pick(table: Mapping[str, Entry], name: str, kind: str) -> Entry:
    """Return `table[name]`.

    Raises:
        InputError: if there is no such entry; the message lists all names and guesses one.
    """
    if name in table:
        return table[name]
    guess = did_you_mean(name, table)
    raise InputError(f"unknown {kind} {name!r}{guess}; valid: {', '.join(table)}")
