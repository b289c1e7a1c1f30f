"""A study file, studies/<name>.yaml: a publication, and the parameters with which we repeat it."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from prunelab.commands.studies.published_measures import MEASURES
from prunelab.commands.studies.scale import FULL, scaled
from prunelab.config.params import Params, Ratio, Section, parse_params, read_params
from prunelab.config.problems import validate
from prunelab.config.safe_yaml import parse_yaml
from prunelab.core.errors import InputError
from prunelab.core.project_root import where_to_go
from prunelab.core.registry import pick
from prunelab.core.text import truncate

FOLDER = Path("studies")
SECTIONS = {
    key
    for key, field in Params.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}
SETTING_KEYS = {"method", "ratio", "grid"}  # keys of params.yaml that only settings may set
UNUSABLE_NAME_ENDS = (".", ".lock")  # Git refuses references that end so

Text = Annotated[str, Field(min_length=1)]
Overrides = dict[str, Any]  # keys of params.yaml, nested or dotted
Values = dict[str, float]  # by the names of MEASURES


class Part(BaseModel):
    """A part of a study file; unknown keys, wrong types, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Source(Part):
    """What was published, by whom, and where."""

    what: Text
    by: Text
    link: Text | None


class Setting(Part):
    """One configuration of a study.

    It gives the amount to remove in one of three ways, whichever the publication uses:

    - `ratio`: the fraction removed, in all.
    - `prune_fraction`: the fraction of what is left that each of `prune.iterations` rounds removes.
    - `times_fewer`: dense ÷ pruned, of what the budget counts; 1 removes nothing.
    """

    method: Text
    ratio: Ratio | None = None
    prune_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    times_fewer: Annotated[float, Field(ge=1)] | None = None
    name: Annotated[str, Field(pattern=r"^[a-z0-9_][a-z0-9_.-]*$")] | None = None
    params: Overrides = {}

    @model_validator(mode="after")
    def _one_amount(self) -> "Setting":
        amounts = [self.ratio, self.prune_fraction, self.times_fewer]
        if amounts.count(None) != 2:
            raise ValueError("give exactly one of ratio, prune_fraction and times_fewer")
        return self

    @property
    def label(self) -> str:
        """The name within the study: the one given, or the method and the amount."""
        if self.name:
            return self.name
        if self.ratio is not None:
            return f"{self.method}-{self.ratio:g}"

        if self.times_fewer:
            return f"{self.method}-{self.times_fewer:g}x"
        return f"{self.method}-{self.prune_fraction:g}each"

    def total_ratio(self, iterations: int) -> float:
        """Return the fraction removed in all, after this many rounds."""
        if self.prune_fraction is not None:
            return round(1 - (1 - self.prune_fraction) ** iterations, 6)
        if self.times_fewer is not None:
            return round(1 - 1 / self.times_fewer, 6)
        assert self.ratio is not None
        return self.ratio


class Row(Part):
    """One published row; without a `setting` it is about a method that we do not have."""

    setting: Text | None
    label: Text  # how the publication calls it
    source: Text | None = None  # where it is printed, if not in the study's own source
    dense: Values | None = None  # the unpruned network of this row, if it is not the study's
    values: Values


class Published(Part):
    dense: Values
    rows: list[Row]


class Quick(Part):
    """A small run of the same code on a CPU; without `settings` it runs all of them."""

    note: Text
    params: Overrides
    settings: Annotated[list[Text], Field(min_length=1)] | None = None


class Nearest(Part):
    """What can be run where the study cannot, for want of its weights or its data.

    Without `settings` it runs all of them.
    """

    as_published: Text  # what of the study can be run as it was published
    missing: Text  # what cannot, and why
    note: Text  # what is run in its place
    params: Overrides = {}
    settings: Annotated[list[Text], Field(min_length=1)] | None = None


class Claim(Part):
    """A statement of the publication that our numbers can confirm or refute.

    It bounds a difference: the measure of `setting` less that of the setting `against`, or of the
    dense network if that is None. A claim without a `setting` is about a method that we do not
    have.
    """

    text: Text
    setting: Text | None
    against: Text | None = None
    measure: Text = "accuracy_percent"
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _has_a_bound(self) -> "Claim":
        if self.at_least is None and self.at_most is None:
            raise ValueError("give at_least, at_most or both")
        if None not in (self.at_least, self.at_most) and self.at_least > self.at_most:  # type: ignore[operator]
            raise ValueError("at_least is above at_most")
        return self


class Study(Part):
    """The content of a study file.

    `images` is the number of training images to take, the same share of every class; None: all.
    `stands_for` names the published study whose claims a smaller one judges, setting by setting.
    """

    title: Text
    source: Source
    network: Text
    data: Text
    honest: list[Text]  # where we deviate from the published recipe, and why
    images: Annotated[int, Field(ge=1)] | None = None
    stands_for: Text | None = None
    needs: dict[str, Text] = {}  # parameters that the user must give with --set, and what they are
    params: Overrides
    quick: Quick
    nearest: Nearest | None = None
    settings: Annotated[list[Setting], Field(min_length=1)]
    published: Published
    claims: list[Claim] = []

    def variant(self, *, quick: bool, nearest: bool) -> Quick | Nearest | None:
        """Return what a run changes; None: nothing.

        Raises:
            InputError: if the study has no nearest run, or if both are asked for.
        """
        if quick and nearest:
            raise InputError("--quick and --nearest are two different runs. Give one of them.")
        if nearest and self.nearest is None:
            raise InputError(
                "this study has no section nearest: it can be run as it is. Leave out --nearest."
            )
        if nearest:
            return self.nearest
        return self.quick if quick else None

    def selected_settings(self, quick: bool, nearest: bool = False) -> list[Setting]:
        """Return the settings that a run measures."""
        variant = self.variant(quick=quick, nearest=nearest)
        if variant is None or variant.settings is None:
            return self.settings
        return [setting for setting in self.settings if setting.label in variant.settings]

    def images_of(self, *, quick: bool, nearest: bool) -> int | None:
        """Return how many training images a run takes, None for all."""
        if quick or nearest:
            return None
        return self.images

    def require_all_images(self, *, quick: bool, nearest: bool) -> None:
        """Raise InputError for a run with a part of the images, which DVC's pipeline cannot do."""
        images = self.images_of(quick=quick, nearest=nearest)
        if images is not None:
            raise InputError(
                f"this study takes {images:,} of the training images, which only --here can do. "
                "Add --here."
            )

    def needed(self, quick: bool, nearest: bool = False) -> dict[str, str]:
        """Return the parameters that the user must give; other runs may have their own values."""
        variant = self.variant(quick=quick, nearest=nearest)
        given = dotted_keys(variant.params) if variant else {}
        return {key: what for key, what in self.needs.items() if key not in given}


def study_files(folder: Path = FOLDER) -> dict[str, Path]:
    """Return the study files, by the name of the study.

    Raises:
        InputError: if the folder does not exist.
    """
    if not folder.is_dir():
        raise InputError(f"no folder {folder} here. {where_to_go()}")
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_study(name: str, folder: Path = FOLDER) -> Study:
    """Read and check a study file.

    Raises:
        InputError: if there is no such study, or with one line per problem of its file, all at
            once.
    """
    path = pick(study_files(folder), name, "study")
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise InputError(
            f"{path}: {name!r} cannot be part of an experiment's name; valid: a-z, 0-9 and _"
        )

    try:
        return parse_study(parse_yaml(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except InputError as error:
        raise InputError(f"{path}: {problem}" for problem in error.problems) from None


def parse_study(content: object) -> Study:
    """Return the study that the content of a file describes.

    Raises:
        InputError: with one line per problem, all at once.
    """
    study = validate(Study, content)
    problems = [
        *_setting_problems(study),
        *_reference_problems(study),
        *_measure_problems(study),
        *_parameter_problems(study),
    ]
    if problems:
        raise InputError(problems)
    return study


def _setting_problems(study: Study) -> Iterator[str]:
    """Settings must have different labels that can name an experiment."""
    counts = Counter(setting.label for setting in study.settings)
    for label in sorted(counts):
        if counts[label] > 1:
            yield f"settings: {label} appears more than once. Give one of them another name."

    for label in counts:
        if label.endswith(UNUSABLE_NAME_ENDS) or ".." in label:
            yield f"settings: {label!r} cannot be part of an experiment's name"


def _reference_problems(study: Study) -> Iterator[str]:
    """Quick and nearest runs, published rows and claims must refer to settings that exist."""
    labels = [setting.label for setting in study.settings]
    references = [("quick.settings", label) for label in study.quick.settings or []]
    if study.nearest:
        references += [("nearest.settings", label) for label in study.nearest.settings or []]
    for number, claim in enumerate(study.claims):
        for label in (claim.setting, claim.against):
            if label is not None:
                references.append((f"claims.{number}", label))
    for number, row in enumerate(study.published.rows):
        if row.setting is not None:
            references.append((f"published.rows.{number}", row.setting))

    for place, label in references:
        if label not in labels:
            yield f"{place}: there is no setting {label!r}; valid: {', '.join(labels)}"


def _measure_problems(study: Study) -> Iterator[str]:
    """Published numbers and claims must have the name of a measure."""
    values_by_place = {"published.dense": study.published.dense}
    for number, row in enumerate(study.published.rows):
        values_by_place[f"published.rows.{number}"] = row.values | (row.dense or {})

    for place, values in values_by_place.items():
        for measure in values:
            if measure not in MEASURES:
                yield f"{place}: unknown measure {measure!r}; valid: {', '.join(MEASURES)}"

    for number, claim in enumerate(study.claims):
        if claim.measure not in MEASURES:
            valid = ", ".join(MEASURES)
            yield f"claims.{number}: unknown measure {claim.measure!r}; valid: {valid}"


def _parameter_problems(study: Study) -> Iterator[str]:
    """Parameters must leave alone what settings set and what the user must give."""
    layers = [("params", study.params), ("quick.params", study.quick.params)]
    if study.nearest:
        layers.append(("nearest.params", study.nearest.params))
    for setting in study.settings:
        layers.append((f"settings.{setting.label}.params", setting.params))

    for place, overrides in layers:
        top_keys = {key.partition(".")[0] for key in dotted_keys(overrides)}
        for key in sorted(SETTING_KEYS & top_keys):
            yield f"{place}: {key} cannot be set here; the settings set it"

    for key in sorted(study.needs.keys() - known_keys()):
        yield f"needs: {key} is not a key of params.yaml"
    for key in sorted(study.needs.keys() & dotted_keys(study.params).keys()):
        yield f"params: {key} is also in needs, so the user must give it. Remove one of the two."


def known_keys() -> set[str]:
    """Return every key of params.yaml: sections, and dotted keys within sections."""
    keys = set(Params.model_fields)
    for section in SECTIONS:
        keys.update(f"{section}.{key}" for key in section_keys(section))
    return keys


def section_keys(section: str) -> list[str]:
    """Return the keys within a section of params.yaml."""
    annotation: Any = Params.model_fields[section].annotation
    return list(annotation.model_fields)


def read_overrides(
    assignments: list[str], who_sets: str = "the settings of a study set it"
) -> Overrides:
    """Parse `key=value` of the command line; values are YAML: `seeds=[0]`, `train.epochs=3`.

    `who_sets` says who sets the keys that the command line may not.

    Raises:
        InputError: with one line for everything that is not an assignment and for every such key.
    """
    overrides: Overrides = {}
    problems = []
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[a-z_][a-z0-9_.]*", key):
            problems.append(
                f"--set {text}: not of the form key=value, such as seeds=[0] or finetune.epochs=3"
            )
        elif key.partition(".")[0] in SETTING_KEYS:
            problems.append(f"--set {text}: {key} cannot be set; {who_sets}")
        else:
            try:
                overrides[key] = parse_yaml(value)
            except InputError as error:
                problems.append(f"--set {truncate(text)}: the value {error}")

    if problems:
        raise InputError(problems)
    return overrides


def resolve(
    study: Study,
    base: Path,
    *,
    quick: bool,
    overrides: Mapping[str, Any],
    nearest: bool = False,
    scale: float = FULL,
) -> dict[str, dict[str, Any]]:
    """Return the whole parameters of every setting, by its label.

    They are those of the file `base`, overridden by the study, then by the setting, then by the
    quick or the nearest run, then by `overrides`, the user's. All epochs are then scaled.

    Raises:
        InputError: with one line per problem of the parameters, all at once.
    """
    base_params = read_params(base)
    if not isinstance(base_params, dict):
        parse_params(base_params, option="--set")  # raises
    variant = study.variant(quick=quick, nearest=nearest)
    variant_params = variant.params if variant else {}

    resolved: dict[str, dict[str, Any]] = {}
    labels_by_problem: dict[str, list[str]] = {}
    for setting in study.selected_settings(quick, nearest):
        params = deepcopy(base_params)
        for layer in (study.params, setting.params, variant_params, overrides):
            override(params, layer)
        params["method"] = setting.method
        params["ratio"] = setting.total_ratio(_iterations(params))

        try:
            parse_params(params, option="--set")
            if scale != FULL:
                params = scaled(params, scale)
                parse_params(params, option="--set")
        except InputError as error:
            for problem in error.problems:
                labels_by_problem.setdefault(problem, []).append(setting.label)
        resolved[setting.label] = params

    if labels_by_problem:
        raise InputError(grouped_problems(labels_by_problem, len(resolved)))
    return resolved


def grouped_problems(labels_by_problem: Mapping[str, list[str]], count: int) -> list[str]:
    """Return one line per problem with the settings that have it, out of `count` settings."""
    lines = []
    for problem, labels in labels_by_problem.items():
        who = "all settings" if len(labels) == count else ", ".join(labels)
        lines.append(f"{who}: {problem}")
    return lines


def dotted_keys(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested or dotted keys of params.yaml as dotted keys.

    Only sections are unfolded. A mapping within a section is a value.
    """
    dotted: dict[str, Any] = {}
    for key, value in overrides.items():
        if key in SECTIONS and isinstance(value, Mapping):
            for inner_key, inner_value in value.items():
                dotted[f"{key}.{inner_key}"] = inner_value
        else:
            dotted[key] = value
    return dotted


def override(params: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    """Set keys of params.yaml; a value within a section is replaced as a whole."""
    for key, value in dotted_keys(overrides).items():
        section, _, inner = key.partition(".")
        if inner and isinstance(params.get(section), dict):
            params[section][inner] = value
        else:
            params[key] = value  # validation reports an unknown key


def _iterations(params: Mapping[str, Any]) -> int:
    """Return the number of pruning rounds; validation reports one that is wrong."""
    try:
        return max(int(params["prune"]["iterations"]), 1)
    except (KeyError, TypeError, ValueError, OverflowError):
        return 1
