"""The results of a study, from DVC's experiments or from studies/results/.

One file has settings that were measured in different runs. Each has its own parameters, code,
environment and scale, and a digest that shows edits.
"""

from collections.abc import Collection, Mapping, Set
from copy import deepcopy
from pathlib import Path
from typing import Any

from prunelab.artifacts.records import Positive, Strict, read_record
from prunelab.commands.studies.scale import FULL, key_of, label_of
from prunelab.commands.studies.study_file import Study, override
from prunelab.config.params import with_defaults
from prunelab.core.errors import InputError
from prunelab.core.files import json_form, user_path, write_json
from prunelab.project.experiments import (
    Record,
    StageClosure,
    current_code,
    digest,
    measured,
    prefer_current_code,
    stage_closure,
)
from prunelab.project.git import require_commit

FOLDER = Path("studies/results")


class Metrics(Strict):
    """The metrics of a network that the tables show."""

    accuracy: float
    accuracy_ci95: float
    accuracy_pruned: float
    accuracy_pruned_ci95: float
    accuracy_drop: float
    accuracy_drop_ci95: float
    precision_macro: float
    recall_macro: float
    specificity_macro: float
    f1_macro: float
    ratio_asked: float
    ratio_achieved: float
    sparsity: float
    params: int | float
    params_ratio: Positive
    macs: int | float
    macs_ratio: float
    size_bytes: float
    seeds: int


class Parameters(Strict):
    """The keys of params.yaml that may hold folders of this machine."""

    data: dict[str, Any]
    weights: str


class Stored(Strict):
    """The stored result of one setting.

    `scale` is the factor of all epochs. `images` is the number of training images, None for all.
    `digest` is a hash of everything else; older files have none.
    """

    experiment: str
    code: str
    parameters: Parameters
    metrics: Metrics
    dense: Metrics
    environment: dict[str, Any] | None
    scale: Positive = FULL
    images: int | None = None
    digest: str | None = None


class Results(Strict):
    """The content of studies/results/<study>.json: settings by their name and scale."""

    study: str
    settings: dict[str, Stored]


def results_file(root: Path, name: str) -> Path:
    return root / FOLDER / f"{name}.json"


def collect(
    root: Path,
    name: str,
    settings: Mapping[str, Mapping[str, Any]],
    free: Set[str],
    *,
    scale: float = FULL,
    images: int | None = None,
) -> dict[str, Record | None]:
    """Return the record of every setting, None for one that never ran with these parameters.

    The parameters `free`, as dotted keys, may have had any value. The key `current` of a record
    says whether the code of the last commit made it. Epochs in `settings` are scaled already.

    Raises:
        InputError: if no commit of a Git repository holds the project.
    """
    require_commit(root)
    closure = stage_closure((root / "dvc.yaml").read_text(encoding="utf-8"))
    code = current_code(root)
    stored = read_stored(results_file(root, name))

    def used_parameters(params: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters that identify a result, comparable between machines."""
        comparable = deepcopy(_portable(params))
        override(comparable, dict.fromkeys(free))
        return closure.select(comparable)

    records: dict[str, Record | None] = {}
    for label, params in settings.items():
        candidates = list(measured(root, name, label))
        key = key_of(label, scale)
        if key in stored:
            candidates.append(stored[key])

        expected = used_parameters(params)
        matching = [
            candidate
            for candidate in candidates
            if used_parameters(candidate["parameters"]) == expected
            and candidate.get("images") == images
        ]

        record = prefer_current_code(matching, code)
        if record is not None:
            record = {**record, "current": record["code"] == code}
        records[label] = record
    return records


def is_result_of(
    stored: Record,
    params: Mapping[str, Any],
    closure: StageClosure,
    *,
    code: str,
    images: int | None,
) -> bool:
    """Whether a stored result was measured with these parameters, by this code."""
    if stored["code"] != code or stored.get("images") != images:
        return False
    expected = closure.select(json_form(_portable(params)))
    return closure.select(_portable(stored["parameters"])) == expected


def read_stored(file: Path) -> dict[str, Record]:
    """Return the results in a file, by the settings' names and scales; none if there is no file.

    Raises:
        InputError: if the file is damaged, or was edited after it was written.
    """
    if not file.exists():
        return {}

    settings: dict[str, Record] = read_record(file, Results)["settings"]
    edited = []
    for key, record in settings.items():
        if record.get("digest") not in (None, digest_of(record)):
            edited.append(key)
    if edited:
        raise InputError(
            f"{file}: {key} was edited after it was measured. Restore it with git checkout, or "
            "take this setting out of the file."
            for key in edited
        )
    return settings


def shown_scale(
    root: Path, name: str, labels: Collection[str], asked: float | None
) -> tuple[float, dict[float, list[str]]]:
    """Return the scale to show, and the settings that were measured at other scales.

    It is the one that was asked for, or the largest at which a setting was measured.
    """
    labels_by_scale = stored_scales(root, name, labels)
    scale = asked
    if scale is None:
        scale = next(iter(labels_by_scale), FULL)
    labels_by_scale.pop(scale, None)
    return scale, labels_by_scale


def digest_of(record: Mapping[str, Any]) -> str:
    """Return a hash of everything that a stored result says."""
    return digest({key: value for key, value in record.items() if key != "digest"})


def stored_scales(root: Path, name: str, labels: Collection[str]) -> dict[float, list[str]]:
    """Return which of these settings have a stored result, by scale, the largest scale first."""
    labels_by_scale: dict[float, list[str]] = {}
    for key, record in read_stored(results_file(root, name)).items():
        if label_of(key) in labels:
            labels_by_scale.setdefault(record.get("scale", FULL), []).append(label_of(key))
    return dict(sorted(labels_by_scale.items(), reverse=True))


def _portable(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters, comparable between machines and with older results.

    Absolute paths, which hold folders of this machine, are shortened. Keys that are younger than a
    result stand at their defaults, by which it was made.
    """
    filled = with_defaults(params)
    data = dict(filled["data"])
    for key in ("source", "table"):
        data[key] = _without_folders(data.get(key))
    return {**filled, "data": data, "weights": _without_folders(filled["weights"])}


def _without_folders(path: object) -> object:
    """Return the file name of an absolute path, and anything else as it is."""
    if isinstance(path, str) and user_path(path).is_absolute():
        return user_path(path).name
    return path


def write_results(
    root: Path, study: Study, name: str, records: Mapping[str, Record | None]
) -> bool:
    """Store the records of a study, by the settings' names, and return whether the file changed.

    A setting without a record keeps what is stored. That was measured with other parameters, and
    no other result of the setting exists. So does every result of another scale. A record that was
    read from the file stays there as it is, whatever form later versions write.
    """
    path = results_file(root, name)
    in_file = read_stored(path)

    settings = {}
    for key, stored in in_file.items():
        if label_of(key) in records:
            settings[key] = stored

    for label, record in records.items():
        if record is None:
            continue
        key = key_of(label, record.get("scale", FULL))
        if key not in settings or not _is_from_file(record, settings[key]):
            settings[key] = stored_form(record)

    if settings == in_file:
        return False
    write_json(path, {"study": name, "title": study.title, "settings": settings})
    return True


def _is_from_file(record: Record, stored: Record) -> bool:
    """Whether `collect` returned this stored record; it adds whether the code is current."""
    return {key: value for key, value in record.items() if key != "current"} == stored


def stored_form(record: Record) -> Record:
    """Return a record as files hold it: without folders of this machine, and with a digest."""
    stored = {**record, "parameters": _portable(record["parameters"])}
    stored.pop("current", None)
    stored = json_form(stored)
    return {**stored, "digest": digest_of(stored)}
