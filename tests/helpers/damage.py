"""Damage to a file: flipped bits, a missing end, other bytes, or a pickle in disguise."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from prunelab.core.errors import InputError

Damage = Callable[[bytes], bytes]


def flipped(content: bytes, place: int, bit: int) -> bytes:
    """The content with one flipped bit; places beyond the end count from the start again."""
    changed = bytearray(content)
    changed[place % len(changed)] ^= 1 << bit
    return bytes(changed)


def _overwritten(content: bytes, place: int, noise: bytes) -> bytes:
    start = place % len(content)
    return content[:start] + noise + content[start + len(noise) :]


# Small places are drawn more often: headers are where parsers can be misled.
PLACES = st.integers(0, 300) | st.integers(0, 2**24)
FLIPS = st.builds(
    lambda place, bit: lambda content: flipped(content, place, bit), PLACES, st.integers(0, 7)
)
DAMAGES: st.SearchStrategy[Damage] = st.one_of(
    FLIPS,
    st.builds(lambda place: lambda content: content[: place % len(content)], PLACES),
    st.builds(
        lambda place, noise: lambda content: _overwritten(content, place, noise),
        PLACES,
        st.binary(min_size=1, max_size=40),
    ),
    st.builds(lambda noise: lambda content: noise, st.binary(max_size=200)),
)


class Malicious:
    """An object that touches a file when it is unpickled."""

    def __init__(self, witness: Path):
        self.witness = witness

    def __reduce__(self):
        return Path.touch, (self.witness,)


def pickled(witness: Path) -> bytes:
    """A pickle that touches `witness` when it is loaded."""
    return pickle.dumps({"state_dict": Malicious(witness)})


def outcome(read: Callable[..., Any], *args: object) -> Any:
    """The result of reading, or None if it is refused in printable lines that name a cause."""
    try:
        return read(*args)
    except InputError as error:
        problems = error.problems

    assert problems
    assert all(line.isprintable() and len(line) > 10 for line in problems)
    return None
