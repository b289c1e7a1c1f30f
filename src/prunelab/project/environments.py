"""The environments in which the metrics of two revisions were measured, and their differences."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunelab.core.errors import InputError
from prunelab.core.mappings import flatten
from prunelab.core.metrics_files import LAST_ENVIRONMENTS
from prunelab.project.experiments import environment_of
from prunelab.project.paths import DENSE_METRICS, ENVIRONMENT, GRID, METRICS
from prunelab.project.trees import Tree

# Metrics files outside of the grid, by the name of their configuration.
METRICS_FILES = {DENSE_METRICS.stem: DENSE_METRICS, METRICS.stem: METRICS}

Difference = tuple[str, Any, Any]  # a dotted key, its value before, its value after


@dataclass(frozen=True)
class EnvironmentDiff:
    """The differences between the environments of two revisions.

    `differing` holds the names of the configurations that have a difference; `compared` is the
    number of configurations that both revisions have. `mismatched` names environment files that
    belong to other metrics and are therefore left out.
    """

    differing: dict[Difference, list[str]] = field(default_factory=dict)
    compared: int = 0
    mismatched: list[str] = field(default_factory=list)


def compare_environments(before: Tree, after: Tree) -> EnvironmentDiff:
    """Compare the environments of every configuration that both revisions have."""
    old = read_environments(before)
    new = read_environments(after)

    mismatched = []
    for tree, environments in ((before, old), (after, new)):
        for name, environment in environments.items():
            if environment is None:
                mismatched.append(f"{name} of {tree.name}")

    compared = 0
    differing: dict[Difference, list[str]] = {}
    for name in sorted(old.keys() & new.keys()):
        old_environment, new_environment = old[name], new[name]
        if old_environment is None or new_environment is None:
            continue
        compared += 1
        for difference in _differences(old_environment, new_environment):
            differing.setdefault(difference, []).append(name)

    ordered = sorted(differing.items(), key=lambda entry: tuple(map(str, entry[0])))
    return EnvironmentDiff(dict(ordered), compared, mismatched)


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Difference]:
    differences = []
    for key in sorted({*old, *new}):
        old_value, new_value = old.get(key), new.get(key)
        if old_value != new_value:
            differences.append((key, _hashable(old_value), _hashable(new_value)))
    return differences


def read_environments(tree: Tree) -> dict[str, dict[str, Any] | None]:
    """Return the environment of every configuration by dotted keys.

    It is None if the file is damaged or belongs to other metrics. In the workspace it is that of
    the last repetition, if one gave these metrics, wherever they were measured first.
    """
    environments: dict[str, dict[str, Any] | None] = {}
    for path in tree.files(f"{ENVIRONMENT.parent}/"):
        name = Path(path).stem
        metrics_file = str(METRICS_FILES.get(name, GRID / f"{name}.json"))

        environment = None
        if tree.commit is None:
            last_path = str(LAST_ENVIRONMENTS / Path(path).name)
            environment = _read_environment(tree, last_path, metrics_file)
        if environment is None:
            environment = _read_environment(tree, path, metrics_file)
        environments[name] = environment
    return environments


def _read_environment(tree: Tree, path: str, metrics_path: str) -> dict[str, Any] | None:
    content = tree.read(path) or b""
    metrics = tree.read(metrics_path) or b""
    try:
        environment = environment_of(content, metrics)
    except InputError:
        return None
    if environment is None:
        return None
    return flatten(environment)


def _hashable(value: Any) -> Any:
    if isinstance(value, list | dict):
        return str(value)
    return value
