"""A sweep: the product of the values that `-S KEY=V1,V2` names, each combination one setting."""

import itertools
import math
from collections.abc import Sequence
from copy import deepcopy
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from prunelab.commands.studies.study_file import (
    SECTIONS,
    known_keys,
    override,
    section_keys,
    told_of,
)
from prunelab.config.params import Params, checked, read_params
from prunelab.config.safe_yaml import truncate
from prunelab.core.errors import InputError
from prunelab.project.experiments import Chain

NAME = "sweep"
SETTINGS = 1_000  # at most: each is an experiment
Axes = dict[str, list[Any]]  # values by the keys of params.yaml


def read_axes(assignments: Sequence[str]) -> Axes:
    """`ratio=0.2,0.5`, `seeds=[0,1],[2]`, `train.epochs=3`: the grammar of `dvc exp run -S`, which is Hydra's.

    Raises:
        InputError: with one line per problem, all of them at once.
    """
    axes: Axes = {}
    problems: list[str] = []
    for text in assignments:
        try:
            key, values = _axis(text)
            if key in axes:
                raise InputError(
                    f"-S {text}: {key} was given before; write all of its values into one: {key}=V1,V2"
                )
            axes[key] = values
        except InputError as refused:
            problems += refused.problems
    if problems:
        raise InputError(problems)
    return axes


def _axis(text: str) -> tuple[str, list[Any]]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import OverrideType
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    try:
        parsed = parser.parse_override(text)
        if parsed.type != OverrideType.CHANGE:
            raise InputError(
                f"-S {text}: params.yaml has all keys there are, so none can be added or removed; KEY=V1,V2"
            )
        if parsed.is_sweep_override() and not parsed.is_discrete_sweep():
            raise InputError(
                f"-S {text}: an interval has no end of values; name them: {parsed.key_or_group}=V1,V2"
            )
        key = parsed.key_or_group
        written = (
            parsed.sweep_string_iterator()
            if parsed.is_sweep_override()
            else [text.partition("=")[2]]
        )
        # range(0,1e9) is one word.
        values = [
            parser.parse_override(f"{key}={one}").value()
            for one in itertools.islice(written, SETTINGS + 1)
        ]
    except HydraException as error:
        why = str(error).splitlines()[0]
        raise InputError(
            f"-S {text}: not of the form KEY=V1,V2, such as ratio=0.2,0.5 ({why})"
        ) from None
    if twice := [value for number, value in enumerate(values) if value in values[:number]]:
        raise InputError(f"-S {text}: {', '.join(map(str, twice))} stands there more than once")
    return key, values


def resolve_sweep(axes: Axes, base: Path, used: Chain) -> dict[str, dict[str, Any]]:
    """The whole parameters of every combination, by what is swept in it; those of `base` where nothing is said.

    Raises:
        InputError: for unknown keys, keys that the pipeline's focus does not read, and values out of range.
    """
    unusable = {key: problem for key in axes if (problem := _unusable(key, used))}
    axes = {
        key: values for key, values in axes.items() if key not in unusable
    }  # which are looked into all the same
    if (count := math.prod(map(len, axes.values()))) > SETTINGS:
        raise InputError(
            [*unusable.values(), f"-S: {count:,} combinations; valid: up to {SETTINGS:,}"]
        )
    shipped = read_params(base)
    swept = [key for key, values in axes.items() if len(values) > 1]
    settings: dict[str, dict[str, Any]] = {}
    wrong: dict[str, list[str]] = {}
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        params = deepcopy(shipped)
        override(params, chosen)
        label = " ".join(f"{key}={_written(chosen[key])}" for key in swept) or params_name(params)
        try:
            checked(params)
        except InputError as refused:
            for problem in refused.problems:
                wrong.setdefault(problem, []).append(label)
        settings[label] = params
    if unusable or wrong:
        raise InputError([*unusable.values(), *told_of(wrong, len(settings))])
    return settings


def _written(value: Any) -> str:
    return str(value).replace(" ", "")


def _unusable(key: str, used: Chain) -> str | None:
    section = key.partition(".")[0]
    if key in known_keys():
        read = any(one in (key, section) or one.startswith(f"{key}.") for one in used.parameters)
        return (
            None
            if read
            else f"-S {key}: the focus does not read it, so that all settings would be the same"
        )
    close = get_close_matches(truncate(key), sorted(known_keys()), n=1)
    guess = f" (did you mean {close[0]!r}?)" if close else ""
    known = section_keys(section) if section in SECTIONS else Params.model_fields
    return f"-S {key}: unknown key{guess}; known here: {', '.join(known)}"


def params_name(params: Any) -> str:
    """What the experiment of a setting is called before its hash: the same whatever else the sweep went over."""
    return f"{params['model']}-{params['method']}-{params['ratio']}"
