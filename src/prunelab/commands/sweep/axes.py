"""The axes of a sweep, `-S KEY=V1,V2`, and the settings that are the product of their values."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunelab.commands.studies.study_file import (
    SECTIONS,
    grouped_problems,
    known_keys,
    override,
    section_keys,
)
from prunelab.config.params import Params, parse_params, read_params
from prunelab.core.errors import InputError
from prunelab.core.text import did_you_mean
from prunelab.project.experiments import StageClosure

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

NAME = "sweep"  # the experiments of every sweep begin with it
MAX_SETTINGS = 1_000  # each is an experiment
Axes = dict[str, list[Any]]  # the values of every swept key of params.yaml


def read_axes(assignments: Sequence[str]) -> Axes:
    """Parse assignments such as `ratio=0.2,0.5`, `seeds=[0,1],[2]` and `train.epochs=3`.

    The grammar is that of `dvc exp run -S`, which is Hydra's.

    Raises:
        InputError: with one line per problem, all at once.
    """
    axes: Axes = {}
    problems: list[str] = []
    for text in assignments:
        try:
            key, values = _parse_axis(text)
        except InputError as error:
            problems += error.problems
            continue

        if key in axes:
            problems.append(
                f"-S {text}: {key} appears more than once. Write all of its values together: "
                f"{key}=V1,V2."
            )
        else:
            axes[key] = values

    if problems:
        raise InputError(problems)
    return axes


def _parse_axis(text: str) -> tuple[str, list[Any]]:
    """Return the key and the values of one assignment."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    try:
        override_ = parser.parse_override(text)
        _check_form(text, override_)

        key = override_.key_or_group
        words: Iterable[str]
        if override_.is_sweep_override():
            words = override_.sweep_string_iterator()
        else:
            words = [text.partition("=")[2]]

        # range(0,1e9) stands for a billion values: read no more than are needed to refuse them.
        words = itertools.islice(words, MAX_SETTINGS + 1)
        values = [parser.parse_override(f"{key}={word}").value() for word in words]
    except HydraException as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"-S {text}: not of the form KEY=V1,V2, such as ratio=0.2,0.5 ({reason})"
        ) from None

    repeated = [value for index, value in enumerate(values) if value in values[:index]]
    if repeated:
        raise InputError(f"-S {text}: {', '.join(map(str, repeated))} appears more than once")
    return key, values


def _check_form(text: str, override_: "Override") -> None:
    """Raise InputError for what Hydra's grammar allows and a sweep does not."""
    from hydra.core.override_parser.types import OverrideType

    if override_.type != OverrideType.CHANGE:
        raise InputError(
            f"-S {text}: keys of params.yaml cannot be added or removed. Write KEY=V1,V2."
        )

    if override_.is_sweep_override() and not override_.is_discrete_sweep():
        raise InputError(
            f"-S {text}: an interval has infinitely many values. "
            f"Name the values: {override_.key_or_group}=V1,V2."
        )


def resolve_sweep(axes: Axes, base: Path, used: StageClosure) -> dict[str, dict[str, Any]]:
    """Return the whole parameters of every combination of values, by a label of what is swept.

    Other keys have the values of the file `base`. `used` is what the pipeline's focus reads.

    Raises:
        InputError: for unknown keys, keys that the focus does not read, and values out of range.
    """
    unusable = _unusable_keys(axes, used)
    usable_axes = {key: values for key, values in axes.items() if key not in unusable}

    count = math.prod(map(len, usable_axes.values()))
    if count > MAX_SETTINGS:
        problem = f"-S: {count:,} combinations; valid: up to {MAX_SETTINGS:,}"
        raise InputError([*unusable.values(), problem])

    base_params = read_params(base)
    settings: dict[str, dict[str, Any]] = {}
    labels_by_problem: dict[str, list[str]] = {}
    for values in itertools.product(*usable_axes.values()):
        combination = dict(zip(usable_axes, values, strict=True))
        params = deepcopy(base_params)
        override(params, combination)

        label = _label(combination, usable_axes) or params_name(params)
        settings[label] = params
        try:
            parse_params(params)
        except InputError as error:
            for problem in error.problems:
                labels_by_problem.setdefault(problem, []).append(label)

    if unusable or labels_by_problem:
        wrong_values = grouped_problems(labels_by_problem, len(settings))
        raise InputError([*unusable.values(), *wrong_values])
    return settings


def _label(combination: Mapping[str, Any], axes: Axes) -> str:
    """Return the values of the keys that have several, such as `ratio=0.5 seeds=[0,1]`."""
    words = []
    for key, value in combination.items():
        if len(axes[key]) > 1:
            value_text = str(value)
            if not isinstance(value, str):  # without spaces, two texts could be the same
                value_text = value_text.replace(" ", "")
            words.append(f"{key}={value_text}")
    return " ".join(words)


def _unusable_keys(axes: Axes, used: StageClosure) -> dict[str, str]:
    """Return why keys cannot be swept, by key."""
    problems = {}
    for key in axes:
        if key not in known_keys():
            problems[key] = _unknown_key(key)
        elif not _is_read(key, used):
            problems[key] = (
                f"-S {key}: the focus does not read it, so all settings would be the same"
            )

    return problems


def _is_read(key: str, used: StageClosure) -> bool:
    section = key.partition(".")[0]
    return any(
        read_key in (key, section) or read_key.startswith(f"{key}.") for read_key in used.parameters
    )


def _unknown_key(key: str) -> str:
    """Return the problem of an unknown key, with the keys of its section or of params.yaml."""
    hint = did_you_mean(key, sorted(known_keys()))
    section = key.partition(".")[0]
    valid = section_keys(section) if section in SECTIONS else Params.model_fields
    return f"-S {key}: unknown key{hint}; valid: {', '.join(valid)}"


def params_name(params: Mapping[str, Any]) -> str:
    """Return the start of an experiment's name, whatever else the sweep goes over."""
    return f"{params['model']}-{params['method']}-{params['ratio']}"
