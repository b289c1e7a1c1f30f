"""Values that a parser may meet, drawn by Hypothesis."""

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from prunelab.core.errors import InputError

LONGEST = 700  # letters of one line: the longest names all methods there are


LETTERS = st.characters() | st.sampled_from(
    "\n\r\t\x00\x1b\u202e'\"|`<>{}[]:#&*!%@,$-. \ufeff\U0001f600"
)


WORDS = st.text(LETTERS, max_size=12)


NUMBERS = (
    st.integers(-3, 3)
    | st.sampled_from([2**31, 2**63, -(2**64), 10**30, 10**400, 2**10_000])
    | st.floats(allow_nan=True, allow_infinity=True)
)


SCALARS = st.none() | st.booleans() | NUMBERS | WORDS | st.dates() | st.binary(max_size=3)


# What a YAML file can hold: keys need not be words there.
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            WORDS | st.integers() | st.none() | st.sampled_from(["int", "float"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


def refused(function: Callable[..., object], *args: Any, **kwargs: Any) -> list[str]:
    """The lines of a refusal, each fit to be shown; none where there was no refusal. Anything else it raises fails."""
    try:
        function(*args, **kwargs)
        return []
    except InputError as error:
        problems = error.problems
    assert problems
    for line in problems:
        assert line.isprintable()
        assert 0 < len(line) <= LONGEST
    return problems
