"""The one place that turns pydantic's errors into one-line problems that a user can act on.

Every line names the place as a dotted path, the bad value (abbreviated) and what is valid there.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from prunelab.core.errors import InputError
from prunelab.core.text import abbreviate, did_you_mean, truncate

Model = TypeVar("Model", bound=BaseModel)
Place = Sequence[str | int]  # keys and list positions, from the outside in

MAX_PROBLEMS = 50
UNKNOWN_KEY_TYPES = ("extra_forbidden", "invalid_key")
NOT_A_MODEL_TYPES = ("model_type", "model_attributes_type")
# For `int | float`, pydantic reports one error per type and appends "int" or "float" to the place.
NUMBER_TYPES = ("int_type", "float_type", "finite_number")


def validate(model: type[Model], content: Any, *, option: str | None = None) -> Model:
    """Build a model from plain content.

    `option` is the command-line option that sets a value, such as `-S`; advice then mentions it.

    Raises:
        InputError: with one line per problem, all of them at once.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise InputError(describe_errors(error, model, option=option)) from None


def describe_errors(
    error: ValidationError, model: type[BaseModel], *, option: str | None = None
) -> list[str]:
    """One line per problem of content that does not fit `model`; at most `MAX_PROBLEMS` of them."""
    details = error.errors(include_url=False)
    # The float branch says the same again.
    details = [detail for detail in details if _number_branch(detail) != "int"]

    lines = [_describe(detail, model, option) for detail in details[:MAX_PROBLEMS]]
    if len(details) > MAX_PROBLEMS:
        lines.append(f"and {len(details) - MAX_PROBLEMS:,} more problems")
    return lines


def unknown_key(key: str, valid: Iterable[str]) -> str:
    """What is wrong with a key that a section does not have."""
    valid = list(valid)
    return f"unknown key{did_you_mean(key, valid)}; valid: {', '.join(valid)}"


def dotted_path(place: Place) -> str:
    """`train.milestones.0` for the keys from the outside in; long keys are truncated."""
    return ".".join(truncate(str(key)) for key in place)


def _describe(detail: ErrorDetails, model: type[BaseModel], option: str | None) -> str:
    place = detail["loc"]
    if _number_branch(detail):
        place = place[:-1]
    path = dotted_path(place)
    kind = detail["type"]
    value = detail["input"]

    if kind in UNKNOWN_KEY_TYPES:
        return f"{path}: {unknown_key(str(place[-1]), _valid_keys(model, place[:-1]))}"
    if kind == "missing":
        return f"{path}: missing"
    if kind == "too_short":
        return f"{path}: empty; at least one entry is needed"
    if kind == "list_type" and not isinstance(value, dict):
        return f"{path}: {_not_a_list(path, value, option)}"
    if kind in NOT_A_MODEL_TYPES:
        valid = ", ".join(_valid_keys(model, place))
        return f"{path or 'the file'}: {abbreviate(value)} is not a section of keys; valid: {valid}"

    message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if place[-1:] == ("[key]",):
        return f"{dotted_path(place[:-2])}: its keys {message}, not {abbreviate(value)}"
    if kind == "value_error":  # our own validators name the value themselves
        return f"{path or 'the file'}: {message}"
    return f"{path or 'the file'}: {message}, not {abbreviate(value)}"


def _not_a_list(path: str, value: Any, option: str | None) -> str:
    text = abbreviate(value)
    if isinstance(value, str) and value and value == truncate(value):
        text = value  # without quotes, ready to be copied

    advice = "write a YAML list"
    if option is not None:
        advice += f", or on the command line {option} '{path}=[{text}]'"
    return f"{text} is not a list; {advice}"


def _number_branch(detail: ErrorDetails) -> str | None:
    """`int` or `float` if the problem is about that branch of `int | float`.

    The branch ends the place although it is no key. A key may have the same name, hence the types.
    """
    place = detail["loc"]
    if detail["type"] in NUMBER_TYPES and place and place[-1] in ("int", "float"):
        return str(place[-1])
    return None


def _valid_keys(model: type[BaseModel], place: Place) -> list[str]:
    """The keys of the section at a place of `model`."""
    section = model
    for key in place:
        field = section.model_fields.get(str(key))
        if field is not None:
            section = next(_models_in(field.annotation), section)
    return list(section.model_fields)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that an annotation such as `list[Row] | None` contains."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
