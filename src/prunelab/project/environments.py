"""Where the numbers of two revisions were measured, and what of it differs."""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunelab.core.errors import InputError
from prunelab.project.experiments import environment_of
from prunelab.project.paths import DENSE_METRICS, ENVIRONMENT, GRID, METRICS
from prunelab.project.revisions import flatten
from prunelab.project.trees import Tree

OWN = {DENSE_METRICS.stem: DENSE_METRICS, METRICS.stem: METRICS}


@dataclass(frozen=True)
class Environments:
    """By key and its two values, the configurations that differ so, of `compared` ones.

    `astray` are those, by side, whose file says that it belongs to other numbers.
    """

    differing: dict[tuple[str, Any, Any], list[str]] = field(default_factory=dict)
    compared: int = 0
    astray: list[str] = field(default_factory=list)


def environments(before: Tree, after: Tree) -> Environments:
    """Compare what both sides noted for the same configuration."""
    sides = [noted_environments(tree) for tree in (before, after)]
    astray = [f"{name} of {tree.name}" for tree, side in zip((before, after), sides, strict=True)
              for name, noted in side.items() if noted is None]  # fmt: skip
    known = [{name: noted for name, noted in side.items() if noted is not None} for side in sides]
    both = sorted(known[0].keys() & known[1].keys())
    found = defaultdict(list)
    for name in both:
        old, new = known[0][name], known[1][name]
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key):
                found[key, _hashable(old.get(key)), _hashable(new.get(key))].append(name)
    return Environments(
        dict(sorted(found.items(), key=lambda one: tuple(map(str, one[0])))), len(both), astray
    )


def noted_environments(tree: Tree) -> dict[str, dict[str, Any] | None]:
    """What each configuration was measured on, by dotted keys; None where the file belongs to other numbers."""
    noted: dict[str, dict[str, Any] | None] = {}
    for path in tree.files(f"{ENVIRONMENT.parent}/"):
        name = Path(path).stem
        text, metrics = tree.read(path), tree.read(str(OWN.get(name, GRID / f"{name}.json")))
        try:
            environment = environment_of(text or b"", metrics or b"")
            noted[name] = environment if environment is None else flatten(environment)
        except InputError:  # no JSON
            noted[name] = None
    return noted


def _hashable(value: Any) -> Any:
    return str(value) if isinstance(value, list | dict) else value
