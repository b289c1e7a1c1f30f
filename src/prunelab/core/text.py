"""How messages quote values and names that somebody else wrote. For Markdown, see escape.py."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from reprlib import Repr
from typing import Any

MAX_TEXT_LENGTH = 60  # characters of a quoted text
MAX_VALUE_LENGTH = 120  # characters of a quoted value
MAX_NAMES = 5  # in one message, cell or sentence
MAX_INTEGER_BITS = 1000  # Python refuses to write integers of many thousands of digits


class _Abbreviation(Repr):
    """Like Python's own `reprlib`, but it also copes with integers of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 2
        self.maxstring = MAX_TEXT_LENGTH
        self.maxother = MAX_TEXT_LENGTH

    def repr_int(self, x: int, level: int) -> str:
        if x.bit_length() >= MAX_INTEGER_BITS:
            return f"an integer of {x.bit_length():,} bits"
        return super().repr_int(x, level)


_ABBREVIATION = _Abbreviation()


def truncate(text: str, length: int = MAX_TEXT_LENGTH) -> str:
    """The first `length` characters of a text, with an ellipsis if there are more."""
    if len(text) <= length:
        return text
    return f"{text[:length]}…"


def abbreviate(value: Any) -> str:
    """Any value as Python writes it, shortened if it is long."""
    return truncate(_ABBREVIATION.repr(value), MAX_VALUE_LENGTH)


def name_list(names: Sequence[str]) -> str:
    """The first `MAX_NAMES` names, and how many more there are."""
    shown = ", ".join(names[:MAX_NAMES])
    if len(names) <= MAX_NAMES:
        return shown
    return f"{shown} and {len(names) - MAX_NAMES:,} more"


def nearest_names(name: str, valid: Iterable[str], count: int = 3) -> str:
    """`'a', 'b' or 'c'`: the valid names that are most like `name`, the best one first."""
    close = get_close_matches(truncate(name), list(valid), n=count, cutoff=0)
    quoted = [repr(match) for match in close]
    if len(quoted) < 2:
        return "".join(quoted)
    return f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the valid name that is most like `name`; empty if none is."""
    close = get_close_matches(truncate(name), list(valid), n=1)
    if not close:
        return ""
    return f" (did you mean {close[0]!r}?)"
