"""Values that a parser may meet, drawn by Hypothesis."""

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types as limits
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from prunelab.config.params import Section
from prunelab.core.errors import InputError

MAX_LINE = 700  # characters of one message: the longest names all methods there are

Place = tuple[Any, ...]  # keys and list positions, from the outside in


LETTERS = st.characters() | st.sampled_from(
    "\n\r\t\x00\x1b\u202e'\"|`<>{}[]:#&*!%@,$-. \ufeff\U0001f600"
)


WORDS = st.text(LETTERS, max_size=12)


TEXTS = st.text(LETTERS, max_size=40)


# Pieces of YAML and JSON in any order: tags of other types, anchors, half of everything.
PIECES = st.lists(
    st.sampled_from(
        ["a", "b", ": ", "- ", "? ", "&a ", "*a", "<<: ", "[", "]", "{", "}", ", ",
         "\n", "  ", "\t", "|\n", "'", '"', "#", "%YAML 1.1\n", "---\n",
         "!!bool ", "!!int ", "!!float ", "!!timestamp ", "!!binary ", "!!set ", "!!omap ",
         "!!python/none ", "2001-13-45", "1:99", "0x", "0b2", "1e999", ".nan", "NaN", "Infinity",
         "9" * 4301, "\\ud800", "ratio", "0.5", "\x00", "\ufeff"]
    ),
    max_size=12,
).map("".join)  # fmt: skip


NUMBERS = (
    st.integers(-3, 3)
    | st.sampled_from([2**31, 2**63, -(2**64), 10**30, 10**400, 2**10_000])
    | st.floats(allow_nan=True, allow_infinity=True)
)


SCALARS = st.none() | st.booleans() | NUMBERS | WORDS | st.dates() | st.binary(max_size=3)


# All that a YAML file can hold: its keys need not be words.
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
    """The problems of an InputError, or no lines; every line must be fit to be shown.

    Any other exception fails the test.
    """
    try:
        function(*args, **kwargs)
        return []
    except InputError as error:
        problems = error.problems

    assert problems
    for line in problems:
        assert line.isprintable()
        assert 0 < len(line) <= MAX_LINE
    return problems


def places(content: Any, place: Place = ()) -> Iterator[Place]:
    """Every key and every position in a list, from the outside in."""
    if place:
        yield place
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        if isinstance(value, dict | list):
            yield from places(value, (*place, key))
        else:
            yield (*place, key)


def with_value_at(content: Any, place: Place, value: Any) -> Any:
    """A copy of the content with one value replaced."""
    copy = deepcopy(content)
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return copy


def values_of(annotation: Any, metadata: tuple[Any, ...] = ()) -> st.SearchStrategy:
    """The values that a part of the schema takes, derived from the schema itself."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return values_of(arguments[0], (*metadata, *arguments[1:]))
    if origin in (Union, UnionType):
        return st.one_of([values_of(argument, metadata) for argument in arguments])
    if origin is Literal:
        return st.sampled_from(arguments)

    if isinstance(annotation, type) and issubclass(annotation, Section):
        fields = {}
        for key, field in annotation.model_fields.items():
            fields[key] = values_of(field.annotation, tuple(field.metadata))
        return st.fixed_dictionaries(fields)

    bounds = _bounds(metadata)
    if origin is list:
        entries = values_of(arguments[0])
        return st.lists(entries, min_size=bounds["min_length"] or 0, max_size=3, unique=True)
    if origin is dict:
        return st.dictionaries(values_of(arguments[0]), values_of(arguments[1]), max_size=2)
    return _scalars_of(annotation, bounds)


def _bounds(metadata: tuple[Any, ...]) -> dict[str, Any]:
    """The limits of a field by name (ge, gt, le, lt, min_length); None without a limit."""
    annotations = []
    for item in metadata:
        annotations += item.metadata if isinstance(item, FieldInfo) else [item]

    bounds: dict[str, Any] = dict.fromkeys(("ge", "gt", "le", "lt", "min_length"))
    kinds = (limits.Ge, limits.Gt, limits.Le, limits.Lt, limits.MinLen)
    for name, kind in zip(bounds, kinds, strict=True):
        for item in annotations:
            if isinstance(item, kind) and bounds[name] is None:
                bounds[name] = getattr(item, name)
    return bounds


def _scalars_of(annotation: Any, bounds: dict[str, Any]) -> st.SearchStrategy:
    if annotation is int:
        largest = bounds["le"]
        if largest is None and bounds["lt"]:
            largest = math.ceil(bounds["lt"]) - 1
        return st.integers(bounds["ge"], largest)

    if annotation is float:
        return st.floats(
            bounds["gt"] if bounds["ge"] is None else bounds["ge"],
            bounds["lt"] if bounds["le"] is None else bounds["le"],
            exclude_min=bounds["gt"] is not None,
            exclude_max=bounds["lt"] is not None,
            allow_nan=False,
            allow_infinity=False,
        )

    if annotation is Any:  # an option of a network: a number or a text
        return st.one_of(st.integers(0, 100), st.text("abc", min_size=1, max_size=8))

    if annotation is str:
        letters = st.characters(exclude_categories=["Cs"])
        return st.text(letters, min_size=bounds["min_length"] or 0, max_size=8)
    return {bool: st.booleans(), NoneType: st.none()}[annotation]
