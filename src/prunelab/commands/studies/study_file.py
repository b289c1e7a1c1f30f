"""A study file, studies/<name>.yaml: what was published, how we repeat it, and the parameters each setting means."""

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from prunelab.commands.studies.published_measures import MEASURES
from prunelab.config.params import Params, Ratio, Section, parse_params, read_params
from prunelab.config.problems import validate
from prunelab.config.safe_yaml import parse_yaml
from prunelab.core.errors import InputError
from prunelab.core.registry import pick
from prunelab.core.text import truncate

FOLDER = Path("studies")
SECTIONS = {
    key
    for key, field in Params.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}
SAID_BY_SETTINGS = {"method", "ratio", "grid"}
Text = Annotated[str, Field(min_length=1)]
Overrides = dict[str, Any]  # keys of params.yaml, nested or dotted
Values = dict[str, float]  # by the names of MEASURES


class Part(BaseModel):
    """A part of a study file: unknown keys, wrong types, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Source(Part):
    """What was published and by whom, as printed there."""

    what: Text
    by: Text
    link: Text | None


class Setting(Part):
    """One configuration. How much to remove is said in one of three ways, as the source says it.

    `ratio`: the fraction removed; `prune_fraction`: the fraction of what is left that each of `prune.iterations` rounds
    removes; `times_fewer`: dense ÷ pruned, of what the budget counts.
    """

    method: Text
    ratio: Ratio | None = None
    prune_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    times_fewer: Annotated[float, Field(ge=1)] | None = None
    name: Annotated[str, Field(pattern=r"^[a-z0-9_][a-z0-9_.-]*$")] | None = None
    params: Overrides = {}

    @model_validator(mode="after")
    def _one_amount(self) -> "Setting":
        if (
            sum(
                amount is not None for amount in (self.ratio, self.prune_fraction, self.times_fewer)
            )
            != 1
        ):
            raise ValueError("say exactly one of ratio, prune_fraction and times_fewer")
        return self

    @property
    def label(self) -> str:
        """Its name within the study: the one given, or the method and the amount."""
        if self.name:
            return self.name
        if self.ratio is not None:
            return f"{self.method}-{self.ratio:g}"
        return (
            f"{self.method}-{self.times_fewer:g}x"
            if self.times_fewer
            else f"{self.method}-{self.prune_fraction:g}each"
        )

    def removed(self, iterations: int) -> float:
        """The fraction removed in all."""
        if self.prune_fraction is not None:
            return round(1 - (1 - self.prune_fraction) ** iterations, 6)
        if self.times_fewer is not None:
            return round(1 - 1 / self.times_fewer, 6)
        assert self.ratio is not None
        return self.ratio


class Row(Part):
    """One printed row; without a `setting` it stands for a method that we do not have."""

    setting: Text | None
    label: Text  # what the source calls it
    source: Text | None = None  # where it is printed, if not in the study's own source
    dense: Values | None = None  # the unpruned network of this row, if it is not the study's
    values: Values


class Published(Part):
    dense: Values
    rows: list[Row]


class Quick(Part):
    """What makes it a small honest run of the same code on a CPU; `settings` names those to run, null all of them."""

    note: Text
    params: Overrides
    settings: Annotated[list[Text], Field(min_length=1)] | None = None


class Study(Part):
    title: Text
    source: Source
    network: Text
    data: Text
    honest: list[Text]  # where the published recipe would not do, and what we do instead
    needs: dict[str, Text] = {}  # parameters that the user must give with --set, and what they are
    params: Overrides
    quick: Quick
    settings: Annotated[list[Setting], Field(min_length=1)]
    published: Published

    def chosen(self, quick: bool) -> list[Setting]:
        wanted = self.quick.settings if quick else None
        return [setting for setting in self.settings if wanted is None or setting.label in wanted]

    def needed(self, quick: bool) -> dict[str, str]:
        """The parameters that the user must give; a quick run may bring its own."""
        return {
            key: what
            for key, what in self.needs.items()
            if not quick or key not in flat(self.quick.params)
        }


def studies(folder: Path = FOLDER) -> dict[str, Path]:
    """The study files by name; raises InputError where there is no folder of them."""
    if not folder.is_dir():
        raise InputError(f"no folder {folder} here; run this in the top folder of the project")
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_study(name: str, folder: Path = FOLDER) -> Study:
    """Read and check a study file.

    Raises:
        InputError: if there is no such study, or with one line per problem of its file, all of them at once.
    """
    path = pick(studies(folder), name, "study")
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise InputError(
            f"{path}: {name!r} cannot be part of the name of an experiment; valid: a-z, 0-9 and _"
        )
    try:
        return study_of(parse_yaml(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except InputError as refused:
        raise InputError(f"{path}: {problem}" for problem in refused.problems) from None


def study_of(content: Any) -> Study:
    """The study that the content of a file means; raises InputError with all of its problems."""
    study = validate(Study, content)
    if problems := list(_inconsistent(study)):
        raise InputError(problems)
    return study


def _inconsistent(study: Study) -> Iterator[str]:
    labels = [setting.label for setting in study.settings]
    for twice in sorted({label for label in labels if labels.count(label) > 1}):
        yield f"settings: {twice} stands there more than once; give one of them another name"
    for place, label in [
        *(("quick.settings", label) for label in study.quick.settings or []),
        *(
            (f"published.rows.{number}", row.setting)
            for number, row in enumerate(study.published.rows)
        ),
    ]:
        if label is not None and label not in labels:
            yield f"{place}: there is no setting {label!r}; valid: {', '.join(labels)}"
    for place, values in [
        ("published.dense", study.published.dense),
        *(
            (f"published.rows.{number}", row.values | (row.dense or {}))
            for number, row in enumerate(study.published.rows)
        ),
    ]:
        for measure in values:
            if measure not in MEASURES:
                yield f"{place}: unknown measure {measure!r}; valid: {', '.join(MEASURES)}"
    layers = [("params", study.params), ("quick.params", study.quick.params)]
    layers += [(f"settings.{setting.label}.params", setting.params) for setting in study.settings]
    for place, overrides in layers:
        for key in sorted(SAID_BY_SETTINGS & {key.partition(".")[0] for key in flat(overrides)}):
            yield f"{place}: {key} is what the settings are for"
    for key in sorted(study.needs.keys() - known_keys()):
        yield f"needs: {key} is no key of params.yaml"
    for key in sorted(study.needs.keys() & flat(study.params).keys()):
        yield f"params: {key} stands under needs too, so it is for the user to give"
    for setting in study.settings:
        if setting.label.endswith((".", ".lock")) or ".." in setting.label:
            yield f"settings: {setting.label!r} cannot be part of the name of an experiment"


def known_keys() -> set[str]:
    """Every key of params.yaml, dotted where it stands in a section; sections too."""
    return {
        *Params.model_fields,
        *(f"{section}.{key}" for section in SECTIONS for key in section_keys(section)),
    }


def section_keys(section: str) -> list[str]:
    annotation: Any = Params.model_fields[section].annotation
    return list(annotation.model_fields)


def read_overrides(assignments: list[str]) -> Overrides:
    """`key=value` from the command line, values as YAML: `seeds=[0]`, `train.epochs=3`.

    Raises:
        InputError: for what is no assignment, and for what the settings of a study say.
    """
    overrides, problems = {}, []
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[a-z_][a-z0-9_.]*", key):
            problems.append(
                f"--set {text}: not of the form key=value, such as seeds=[0] or finetune.epochs=3"
            )
        elif key.partition(".")[0] in SAID_BY_SETTINGS:
            problems.append(f"--set {text}: {key} is what the settings of a study say")
        else:
            try:
                overrides[key] = parse_yaml(value)
            except InputError as refused:
                problems.append(f"--set {truncate(text)}: the value {refused}")
    if problems:
        raise InputError(problems)
    return overrides


def resolve(
    study: Study, base: Path, *, quick: bool, overrides: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The whole parameters of every setting by its name: those of the file `base`, overridden by the study's, then the
    setting's own, then the quick ones, then the user's.

    Raises:
        InputError: with one line per problem of the parameters, all of them at once.
    """
    shipped = read_params(base)
    if not isinstance(shipped, dict):
        parse_params(shipped, option="--set")  # raises
    resolved: dict[str, dict[str, Any]] = {}
    problems: dict[str, list[str]] = {}
    for setting in study.chosen(quick):
        params = deepcopy(shipped)
        for layer in (study.params, setting.params, study.quick.params if quick else {}, overrides):
            override(params, layer)
        params["method"] = setting.method
        params["ratio"] = setting.removed(_iterations(params))
        try:
            parse_params(params, option="--set")
        except InputError as refused:
            for problem in refused.problems:
                problems.setdefault(problem, []).append(setting.label)
        resolved[setting.label] = params
    if problems:
        raise InputError(told_of(problems, len(resolved)))
    return resolved


def told_of(problems: Mapping[str, list[str]], settings: int) -> list[str]:
    """One line per problem, with the settings that have it."""
    return [
        f"{'all settings' if len(labels) == settings else ', '.join(labels)}: {problem}"
        for problem, labels in problems.items()
    ]


def flat(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Nested or dotted keys of params.yaml as dotted ones; what lies deeper than a section's keys is a value."""
    dotted: dict[str, Any] = {}
    for key, value in overrides.items():
        nested = key in SECTIONS and isinstance(value, Mapping)
        dotted |= (
            {f"{key}.{inner}": its for inner, its in value.items()} if nested else {key: value}
        )
    return dotted


def override(params: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    """Set keys of params.yaml; a value within a section is replaced as a whole."""
    for key, value in flat(overrides).items():
        section, _, inner = key.partition(".")
        if inner and isinstance(params.get(section), dict):
            params[section][inner] = value
        else:
            params[key] = value  # if that is wrong, validation says so


def _iterations(params: Mapping[str, Any]) -> int:
    try:
        return max(int(params["prune"]["iterations"]), 1)
    except (KeyError, TypeError, ValueError):
        return 1  # wrong, and validation says so
