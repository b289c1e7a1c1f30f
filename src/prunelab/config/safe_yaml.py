"""YAML and JSON that others wrote: whatever is in it, it becomes plain values or is refused, and fills no memory."""

import json
import warnings
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from reprlib import Repr
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import ReusedAnchorWarning, YAMLError

from prunelab.core.errors import InputError

KEYS, ENTRIES = 10_000, 1_000_000
LETTERS = 60
# What the libraries raise for a tagged value that is none of its kind (!!bool x, 2001-13-45, !!int ''), or one with
# more digits than Python turns into a number.
NO_VALUE = (ValueError, LookupError, TypeError, OverflowError)


class _Bounded(SafeConstructor):
    """Merge keys copy what they name: a page of them, each of several others, would fill any memory."""

    def flatten_mapping(self, node: Any) -> None:
        super().flatten_mapping(node)
        if len(node.value) > KEYS:
            raise ConstructorError(
                None, None, f"merge keys make a mapping of more than {KEYS:,} keys", node.start_mark
            )


def parse_yaml(source: Path | str | bytes, *, fast: bool = False) -> Any:
    """The content of a YAML file or text; `fast` is for long files that a program wrote.

    Raises:
        InputError: if it is no YAML, nested too deeply or within itself, or makes much of little by anchors.
        OSError: if there is no such file.
    """
    yaml = YAML(typ="safe", pure=not fast)
    yaml.Constructor = _Bounded
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ReusedAnchorWarning)  # YAML allows it
            content = yaml.load(source)
        if _count(content, {}) > ENTRIES:
            raise InputError(
                f"cannot be read as YAML: its anchors make more than {ENTRIES:,} entries of it"
            )
        return content
    except RecursionError:
        raise InputError("cannot be read as YAML: nested too deeply") from None
    except (YAMLError, *NO_VALUE) as error:
        raise InputError(
            f"cannot be read as YAML: {truncate(' '.join(str(error).split()), 10 * LETTERS)}"
        ) from None


def _count(value: Any, known: dict[int, int]) -> int:
    """How many values there are, those behind an anchor as often as they are named, which whoever walks it meets."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = (
            ENTRIES + 1
        )  # what it is while it is counted: nobody would come to the end of it
        known[id(value)] = 1 + sum(
            _count(one, known) for one in (value.values() if isinstance(value, dict) else value)
        )
    return known[id(value)]


def parse_json(text: str | bytes) -> Any:
    """The content of a JSON text; raises InputError if it is none, or nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise InputError("cannot be read as JSON: nested too deeply") from None
    except ValueError as error:
        raise InputError(f"cannot be read as JSON: {error}") from None


class _Short(Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 2, LETTERS, LETTERS

    def repr_int(self, x: int, level: int) -> str:
        return (
            super().repr_int(x, level)
            if x.bit_length() < 1000
            else f"an integer of {x.bit_length():,} bits"
        )


_SHORT = _Short()


def short(value: Any) -> str:
    """Any value as Python writes it, cut where it is long."""
    return truncate(_SHORT.repr(value), 2 * LETTERS)


def truncate(text: str, letters: int = LETTERS) -> str:
    """The first letters of a text."""
    return text if len(text) <= letters else f"{text[:letters]}…"


def unknown_key(key: str, known: Iterable[str]) -> str:
    """What to say of a key that is none, whatever its length."""
    known = list(known)
    close = get_close_matches(truncate(key), known, n=1)
    guess = f" (did you mean {close[0]!r}?)" if close else ""
    return f"unknown key{guess}; known here: {', '.join(known)}"
