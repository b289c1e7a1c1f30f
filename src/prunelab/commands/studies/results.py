"""The results of a study, from DVC's experiments or from studies/results/."""

from collections.abc import Mapping, Set
from copy import deepcopy
from pathlib import Path
from typing import Any

from prunelab.artifacts.records import Positive, Strict, read_record
from prunelab.commands.studies.study_file import Study, override
from prunelab.core.files import user_path, write_json
from prunelab.project.experiments import (
    Record,
    code_of,
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
    """The stored result of one setting."""

    experiment: str
    code: str
    parameters: Parameters
    metrics: Metrics
    dense: Metrics
    environment: dict[str, Any] | None


class Results(Strict):
    """The content of studies/results/<study>.json."""

    settings: dict[str, Stored]


def results_file(root: Path, name: str) -> Path:
    return root / FOLDER / f"{name}.json"


def collect(
    root: Path, name: str, settings: Mapping[str, Mapping[str, Any]], free: Set[str]
) -> dict[str, Record | None]:
    """Return the record of every setting, None for one that never ran with these parameters.

    The parameters `free`, as dotted keys, may have had any value. The key `current` of a record
    says whether the code of the last commit made it.

    Raises:
        InputError: if no commit of a Git repository holds the project.
    """
    require_commit(root)
    closure = stage_closure((root / "dvc.yaml").read_text())
    code = code_of(root, "HEAD")
    stored = _read_stored(results_file(root, name))

    def used_parameters(params: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters that identify a result, comparable between machines."""
        comparable = deepcopy(_portable(params))
        override(comparable, dict.fromkeys(free))
        return closure.select(comparable)

    records: dict[str, Record | None] = {}
    for label, params in settings.items():
        candidates = list(measured(root, name, label))
        if label in stored:
            candidates.append(stored[label])

        expected = used_parameters(params)
        matching = [
            candidate
            for candidate in candidates
            if used_parameters(candidate["parameters"]) == expected
        ]

        record = prefer_current_code(matching, code)
        if record is not None:
            record = {**record, "current": record["code"] == code}
        records[label] = record
    return records


def _read_stored(file: Path) -> dict[str, Record]:
    if not file.exists():
        return {}
    settings: dict[str, Record] = read_record(file, Results)["settings"]
    return settings


def _portable(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters with absolute paths, which hold folders of this machine, shortened."""
    data = dict(params["data"])
    data["source"] = _without_folders(data.get("source"))
    return {**params, "data": data, "weights": _without_folders(params["weights"])}


def _without_folders(path: object) -> object:
    """Return the file name of an absolute path, and anything else as it is."""
    if isinstance(path, str) and user_path(path).is_absolute():
        return user_path(path).name
    return path


def write_results(
    root: Path, study: Study, name: str, records: Mapping[str, Record | None]
) -> Path:
    """Store the records of a study and return the file.

    A setting without a record keeps what is stored. That was measured with other parameters, and
    no other result of the setting exists.
    """
    path = results_file(root, name)

    settings = {}
    for label, stored in _read_stored(path).items():
        if label in records:
            settings[label] = stored

    for label, record in records.items():
        if record:
            stored = {**record, "parameters": _portable(record["parameters"])}
            stored.pop("current", None)
            settings[label] = stored

    write_json(path, {"study": name, "title": study.title, "settings": settings})
    return path
