"""The sensitivity curves in metrics/sensitivity.json, for the network of params.yaml."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunelab.artifacts.networks import seed_file
from prunelab.artifacts.records import ALL, Sensitivity, read_record
from prunelab.config.params import Params
from prunelab.core.errors import InputError
from prunelab.core.files import sha256
from prunelab.core.plurals import UNITS
from prunelab.pruning.allocation import Curve
from prunelab.pruning.structured.groups import find_layer_ratio

RECORD = Path("metrics/sensitivity.json")
HOW_TO_MEASURE = "run dvc repro sensitivity"
MAX_NAMES = 4  # layers that one message names


def read_own_record(params: Params, base: Path, path: Path = RECORD) -> dict[str, Any]:
    """Return the record of curves.

    `base` is the folder of the dense networks, which may be missing.

    Raises:
        InputError: if the record is missing or damaged, or if it describes another network or data
            set than `params`.
    """
    if not path.exists():
        raise InputError(
            f"{path} is missing: there are no curves to allocate by. "
            f"To measure them, {HOW_TO_MEASURE}."
        )
    record: dict[str, Any] = read_record(path, Sensitivity)

    problems = []
    expected = {"model": params.model, "dataset": params.dataset, "seeds": params.seeds}
    for key, value in expected.items():
        if record[key] != value:
            problems.append(
                f"{path} has the curves of {key} {record[key]}, but params.yaml has {value}. "
                f"To measure them again, {HOW_TO_MEASURE}."
            )
    if not problems and _networks_differ(record, params, base):
        problems.append(
            f"{path} has the curves of other networks than those in {base}. "
            f"To measure them again, {HOW_TO_MEASURE}."
        )

    if problems:
        raise InputError(problems)
    return record


def _networks_differ(record: Mapping[str, Any], params: Params, base: Path) -> bool:
    """Whether all dense networks are here and are not those of the record."""
    hashes = []
    for seed in params.seeds:
        file = seed_file(base, seed)
        if not file.exists():
            return False
        hashes.append(sha256(file))

    recorded_hashes: list[str] = record["networks"]
    return hashes != recorded_hashes


def read_curves(
    record: Mapping[str, Any], kind: str, units: Mapping[str, int], params: Params
) -> list[Curve]:
    """Return the curves of the layers that may be pruned, from the first layer on.

    `kind` is what is removed. `units` has the number of units of every layer of the network.

    Raises:
        InputError: if the record has no such curves, the network has other layers, or all layers
            are protected.
    """
    rows = [row for row in record["rows"] if row["granularity"] == kind and row["layer"] != ALL]
    if not rows:
        reason = record["skipped"].get(kind, "none were measured")
        raise InputError(f"{RECORD} has no curves of {UNITS[kind]}: {reason}")

    measured_units = {row["layer"]: row["units"] for row in rows}
    _check_layers(measured_units, units, params)

    unprotected = _unprotected_layers(rows, params)
    round_to = params.prune.round_to if kind in ("channel", "hidden") else 1
    curves = []
    for layer, count in measured_units.items():
        if layer in unprotected:
            layer_rows = [row for row in rows if row["layer"] == layer]
            points = [(row["removed"], row["accuracy"]) for row in layer_rows]
            curves.append(Curve.through(layer, count, record["accuracy"], points, round_to))

    return curves


def _check_layers(
    measured_units: Mapping[str, int], units: Mapping[str, int], params: Params
) -> None:
    """Raise InputError if curves were measured on layers that the network does not have."""
    different = []
    for name, count in measured_units.items():
        if units.get(name) != count:
            different.append(name)

    if different:
        names = ", ".join(sorted(different)[:MAX_NAMES])
        raise InputError(
            f"{RECORD} has curves of {names}, which {params.model} lacks or has in another size. "
            f"To measure them again, {HOW_TO_MEASURE}."
        )


def _unprotected_layers(rows: list[dict[str, Any]], params: Params) -> set[str]:
    """Return the layers that prune.protect leaves to the allocation.

    Raises:
        InputError: if there are none.
    """
    # Ratios of an earlier allocation are replaced, so they protect nothing.
    settings = params.prune.model_copy(update={"layer_ratios": {}})
    unprotected = set()
    for row in rows:
        if find_layer_ratio(row["layers"].split(", "), settings) is None:
            unprotected.add(row["layer"])

    if not unprotected:
        raise InputError("prune.protect leaves no layer to allocate to")
    return unprotected
