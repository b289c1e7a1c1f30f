"""The shipped parameters with some of them changed."""

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from prunelab.config.params import PruneSpec, Recipe, Runtime, Train, read_params

PROJECT = Path(__file__).parents[2]


def shipped_params() -> dict[str, Any]:
    """The content of params.yaml, to be changed at will. It is read once: every test needs it."""
    return deepcopy(_shipped_params())


@cache
def _shipped_params() -> dict[str, Any]:
    return read_params(PROJECT / "params.yaml")


def edit_params(path: Path, **changes: object) -> None:
    """Set keys of a parameter file; two underscores reach into a section, as in train__epochs=3."""
    content = YAML(typ="safe").load(path)
    for place, value in changes.items():
        *sections, key = place.split("__")
        section = content
        for name in sections:
            section = section[name]
        section[key] = value
    YAML().dump(content, path)


def prune_spec(method: str, ratio: float, **changes: object) -> PruneSpec:
    """The shipped settings of pruning with some of them changed."""
    shipped = shipped_params()["prune"]
    return PruneSpec(**{"method": method, "ratio": ratio, "budget": "native"} | shipped | changes)


def runtime_params(**changes: object) -> Runtime:
    """The CPU in float32, whatever is shipped, deterministic, in one process."""
    shipped = shipped_params()["runtime"]
    return Runtime(**shipped | {"device": "cpu", "precision": "fp32"} | changes)


def with_changes(recipe: Recipe, **changes: object) -> Recipe:
    """A recipe with some settings changed, checked like any other."""
    return type(recipe)(**recipe.model_dump() | changes)


def train_params(**changes: object) -> Train:
    """The shipped base recipe with some settings changed."""
    return Train(**shipped_params()["train"] | changes)
