"""Two result files of one study as one, if their parameters agree."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunelab.artifacts.records import read_record
from prunelab.commands.studies.results import Results, read_stored
from prunelab.commands.studies.scale import FULL
from prunelab.commands.studies.study_file import dotted_keys
from prunelab.commands.studies.validate import SETTING_KEYS
from prunelab.config.params import with_defaults
from prunelab.core.errors import InputError
from prunelab.core.files import write_json
from prunelab.project.experiments import Record

Stored = Mapping[str, Record]
# Parameters that no setting of a study reads.
UNREAD = ("grid", "benchmark", "sensitivity", "search")


def merge_files(into: Path, other: Path) -> tuple[list[str], list[str]]:
    """Add the settings of `other` to `into`, and return which were added and which were kept.

    Raises:
        InputError: if a file is missing, damaged or edited, if they belong to different studies,
            or with a line for every parameter that differs. Both files then stay as they are.
    """
    contents = []
    for file in (into, other):
        if not file.is_file():
            raise InputError(f"{file}: there is no such file")
        contents.append(read_record(file, Results))
    content, other_content = contents
    if content["study"] != other_content["study"]:
        raise InputError(
            f"{into} holds results of {content['study']}, {other} those of "
            f"{other_content['study']}. Only results of one study can be merged."
        )

    own, others = read_stored(into), read_stored(other)
    problems = [*_same_settings_differ(own, others), *_studies_differ(own, others)]
    if problems:
        raise InputError(f"{other}: {problem}" for problem in problems)

    added = [key for key in others if key not in own]
    kept = [key for key in others if key in own]
    settings = {**others, **own}
    if added:
        write_json(into, {**content, "settings": settings})
    return added, kept


def _same_settings_differ(own: Stored, others: Stored) -> list[str]:
    """A line for every parameter in which a setting of both files differs."""
    problems = []
    for key in own.keys() & others.keys():
        ours, theirs = _parameters(own[key]), _parameters(others[key])
        for name in ours.keys() | theirs.keys():
            value, other_value = ours.get(name), theirs.get(name)
            if other_value != value:
                problems.append(f"{key}: {name} is {other_value!r} instead of {value!r}")
        if own[key].get("images") != others[key].get("images"):
            problems.append(f"{key}: the number of training images differs")
    return sorted(problems)


def _studies_differ(own: Stored, others: Stored) -> list[str]:
    """A line for every parameter on which each file agrees with itself, but not with the other.

    Settings of one scale share a dense network, so what does not belong to a setting must agree.
    """
    problems = []
    scales = {record.get("scale", FULL) for record in own.values()}
    for scale in sorted(scales):
        common, other_common = _common(own, scale), _common(others, scale)
        for name in sorted(common.keys() & other_common.keys()):
            if common[name] != other_common[name]:
                problems.append(f"{name} is {other_common[name]!r} instead of {common[name]!r}")
    return problems


def _common(stored: Stored, scale: float) -> dict[str, Any]:
    """The parameters that all settings of one scale share, without those that settings vary."""
    rows = []
    for record in stored.values():
        if record.get("scale", FULL) == scale:
            rows.append(_parameters(record) | {"images": record.get("images")})
    if not rows:
        return {}

    common = {}
    for name, value in rows[0].items():
        varies = name.partition(".")[0] in SETTING_KEYS
        if not varies and all(row.get(name) == value for row in rows):
            common[name] = value
    return common


def _parameters(record: Record) -> dict[str, Any]:
    """The parameters of a result by dotted key, without those that no setting reads.

    Keys that are younger than the result stand at their defaults, by which it was made.
    """
    filled = with_defaults(record["parameters"])
    parameters = {key: value for key, value in filled.items() if key not in UNREAD}
    return dotted_keys(parameters)
