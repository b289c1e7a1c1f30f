"""Tables of choices: looking a name up, and what an entry refers to."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, TypeVar

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


def resolve(reference: str) -> Any:
    """What `module:name` refers to; the module is imported now.

    Tables hold such references to functions whose modules are slow to import.
    """
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)
