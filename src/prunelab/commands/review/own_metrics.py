"""The metrics of the dense network, the focus and the grid on both sides of a review.

They are read from Git: `dvc metrics diff` lists the headline of the focus alone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunelab.core.errors import InputError
from prunelab.core.files import parse_json
from prunelab.core.metrics_files import FOLDER, details_file, join_metrics
from prunelab.project.lock_state import Differences
from prunelab.project.metrics import parse_mapping
from prunelab.project.paths import DENSE_METRICS, GRID, METRICS
from prunelab.project.trees import Tree


def own_metrics(before: Tree, after: Tree) -> tuple[Differences, list[str]]:
    """Return every metric on both sides, and why files could not be read.

    Metrics that did not change are included.
    """
    old, old_troubles = _read_side(before)
    new, new_troubles = _read_side(after)

    differences: Differences = {}
    for path in sorted({*old, *new}):
        old_values, new_values = old.get(path, {}), new.get(path, {})
        keys = {**old_values, **new_values}
        differences[path] = {
            key: {"old": old_values.get(key), "new": new_values.get(key)} for key in keys
        }
    return differences, [*old_troubles, *new_troubles]


def _read_side(tree: Tree) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the metrics of every configuration by the path of its metrics file, and troubles."""
    metrics: dict[str, dict[str, Any]] = {}
    troubles = []
    files = tree.files(f"{FOLDER}/")

    for path in files:
        if Path(path) not in (DENSE_METRICS, METRICS) and Path(path).parent != GRID:
            continue
        try:
            headline = _read_mapping(tree, path)
            details_path = str(details_file(Path(path)))
            details = {}
            if details_path in files:
                details = _read_mapping(tree, details_path)
        except InputError as error:
            troubles.append(f"{tree.name}: {error}")
            continue
        metrics[path] = _scalars(join_metrics(headline, details))

    return metrics, troubles


def _read_mapping(tree: Tree, path: str) -> dict[str, Any]:
    return parse_mapping(path, tree.read(path) or b"", parse_json)


def _scalars(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics that are a number or a text, as DVC would show them."""
    return {key: value for key, value in metrics.items() if isinstance(value, int | float | str)}
