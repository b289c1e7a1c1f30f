"""The curves in metrics/sensitivity.json, if they are those of the network that params.yaml describes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunelab.artifacts.networks import seed_file
from prunelab.artifacts.records import ALL, Sensitivity, read_record
from prunelab.config.params import Params
from prunelab.core.errors import InputError
from prunelab.core.files import sha256
from prunelab.pruning.allocation import Curve
from prunelab.pruning.structured.groups import own_ratio

RECORD = Path("metrics/sensitivity.json")
MAKE = "`dvc repro sensitivity` measures them"


def read_own_record(params: Params, base: Path, path: Path = RECORD) -> dict[str, Any]:
    """The record of curves; `base` is the folder of the dense networks, which need not be there.

    Raises:
        InputError: if it is missing or damaged, or of another network or data set than the parameters name.
    """
    if not path.exists():
        raise InputError(f"{path} is missing: there are no curves to allocate by; {MAKE}")
    record = read_record(path, Sensitivity)
    wanted = {"model": params.model, "dataset": params.dataset, "seeds": params.seeds}
    problems = [
        f"{path} has the curves of {key} {record[key]}, params.yaml says {value}; {MAKE} anew"
        for key, value in wanted.items()
        if record[key] != value
    ]
    files = [seed_file(base, seed) for seed in params.seeds]
    if (
        not problems
        and all(map(Path.exists, files))
        and [sha256(file) for file in files] != record["networks"]
    ):
        problems.append(
            f"{path} has the curves of other networks than those in {base}; {MAKE} anew"
        )
    if problems:
        raise InputError(problems)
    return record


def read_curves(
    record: Mapping[str, Any], what: str, units: Mapping[str, int], params: Params
) -> list[Curve]:
    """The curves of what may be cut, from the first layer on; `units` are those of the network's parts, by name.

    Raises:
        InputError: if there are none of the kind, the parts are others, or all are protected.
    """
    rows = [row for row in record["rows"] if row["granularity"] == what and row["layer"] != ALL]
    if not rows:
        raise InputError(
            f"{RECORD} has no curves of {what}s: {record['skipped'].get(what, 'none were measured')}"
        )
    measured = {row["layer"]: row["units"] for row in rows}
    if others := sorted(name for name, count in measured.items() if units.get(name) != count):
        raise InputError(
            f"{RECORD} has curves of {', '.join(others[:4])}, which {params.model} does not have so; {MAKE} anew"
        )
    alone = params.prune.model_copy(update={"layer_ratios": {}})
    free = {row["layer"] for row in rows if own_ratio(row["layers"].split(", "), alone) is None}
    if not free:
        raise InputError("prune.protect leaves no layer to allocate to")
    return [
        Curve.through(
            name,
            measured[name],
            record["accuracy"],
            [(row["removed"], row["accuracy"]) for row in rows if row["layer"] == name],
            params.prune.round_to if what in ("channel", "hidden") else 1,
        )
        for name in measured
        if name in free
    ]
