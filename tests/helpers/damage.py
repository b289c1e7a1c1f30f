"""What may happen to a file: bits that flip, an end that is missing, bytes of something else, a pickle in disguise."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from prunelab.core.errors import InputError

Damage = Callable[[bytes], bytes]


def flipped(content: bytes, place: int, bit: int) -> bytes:
    """The content with one bit of the byte at `place`, counted around, the other way."""
    changed = bytearray(content)
    changed[place % len(changed)] ^= 1 << bit
    return bytes(changed)


def _overwritten(content: bytes, place: int, noise: bytes) -> bytes:
    start = place % len(content)
    return content[:start] + noise + content[start + len(noise) :]


# Small places are drawn more often than large ones, and headers are where parsers can be led astray.
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
    """Unpickled, it touches a file."""

    def __init__(self, witness: Path):
        self.witness = witness

    def __reduce__(self):
        return Path.touch, (self.witness,)


def pickled(witness: Path) -> bytes:
    """A pickle that touches `witness` when it is loaded."""
    return pickle.dumps({"state_dict": Malicious(witness)})


def outcome(read: Callable[..., Any], *args: object) -> Any:
    """What reading gives, None if it is refused: by lines that print, and that name a cause."""
    problems = None
    try:
        return read(*args)
    except InputError as refused:
        problems = refused.problems
    assert problems
    assert all(line.isprintable() and len(line) > 10 for line in problems)
    return None
