"""What has been measured of a study: out of DVC's experiments, or of studies/results/ where those are not at hand."""

from collections.abc import Mapping, Set
from copy import deepcopy
from pathlib import Path
from typing import Any

from prunelab.artifacts.records import Positive, Strict, read_record
from prunelab.commands.studies.study_file import Study, override
from prunelab.core.files import write_json
from prunelab.project.experiments import Record, chain, code_of, measured, prefer_current_code

FOLDER = Path("studies/results")


class Metrics(Strict):
    """What the tables show of a network."""

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
    """Of params.yaml, what tells folders of this machine."""

    data: dict[str, Any]
    weights: str


class Stored(Strict):
    """What a setting was measured with, and what came out."""

    experiment: str
    code: str
    parameters: Parameters
    metrics: Metrics
    dense: Metrics
    environment: dict[str, Any] | None


class Results(Strict):
    """studies/results/<study>.json"""

    settings: dict[str, Stored]


def results_file(root: Path, name: str) -> Path:
    return root / FOLDER / f"{name}.json"


def collect(
    root: Path, name: str, settings: Mapping[str, Mapping[str, Any]], free: Set[str]
) -> dict[str, Record | None]:
    """The record of every setting, None where it was never run with these parameters.

    The parameters `free`, dotted, may have had any value. A record has the key `current`: whether it was made by the
    code that is here.
    """
    used = chain((root / "dvc.yaml").read_text())
    code = code_of(root, "HEAD")
    file = results_file(root, name)
    stored = _stored(file)

    def known(params: Mapping[str, Any]) -> dict[str, Any]:
        blank = deepcopy(_portable(params))
        override(blank, dict.fromkeys(free))
        return used.used(blank)

    found: dict[str, Record | None] = {}
    for label, params in settings.items():
        records = [*measured(root, name, label), *([stored[label]] if label in stored else [])]
        record = prefer_current_code(
            [record for record in records if known(record["parameters"]) == known(params)], code
        )
        found[label] = record and {**record, "current": record["code"] == code}
    return found


def _stored(file: Path) -> dict[str, Record]:
    return read_record(file, Results)["settings"] if file.exists() else {}


def _portable(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters without the folders of this machine: absolute paths come down to the file's name."""
    data = dict(params["data"])
    data["source"] = _name(data.get("source"))
    return {**params, "data": data, "weights": _name(params["weights"])}


def _name(path: Any) -> Any:
    return Path(path).name if isinstance(path, str) and Path(path).is_absolute() else path


def write_results(
    root: Path, study: Study, name: str, records: Mapping[str, Record | None]
) -> Path:
    """Store all that is known: parameters, metrics, the dense network's, environment, code and commit.

    Of a setting without a record what is stored stays: it was measured with other parameters, and is all there is.
    """
    path = results_file(root, name)
    stored = {label: record for label, record in _stored(path).items() if label in records}
    settings = stored | {
        label: {
            key: value
            for key, value in {**record, "parameters": _portable(record["parameters"])}.items()
            if key != "current"
        }
        for label, record in records.items()
        if record
    }
    write_json(path, {"study": name, "title": study.title, "settings": settings})
    return path
