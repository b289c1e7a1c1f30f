"""Which paths the stages of dvc.yaml write. It is read as text, so DVC is not needed."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunelab.config.safe_yaml import parse_yaml
from prunelab.core.errors import InputError
from prunelab.core.mappings import nested_mapping
from prunelab.project.paths import PIPELINE_FILE

_PLACEHOLDER = re.compile(r"\$\{[^}]*\}")  # of a matrix or of params.yaml


def declared_outputs(stage: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the options of every output of a stage of dvc.yaml by path, metrics and plots too."""
    options_by_path: dict[str, Mapping[str, Any]] = {}
    for kind in ("outs", "metrics", "plots"):
        for output in stage.get(kind) or []:
            # An output with options is a mapping of one key: {path: options}.
            if isinstance(output, str):
                options_by_path[output] = {}
            else:
                options_by_path.update(output)
    return options_by_path


def writer_of(path: Path, root: Path) -> tuple[str, str] | None:
    """Return the stage that writes a path, and its output that the path is or lies in.

    A path without such a stage gives None, and so does a project without dvc.yaml or without stages
    in it. A relative path begins in `root`. Links are followed, but a path that leads through an
    output lies in it wherever its links lead. `${...}` in an output stands for any name.

    Raises:
        InputError: if dvc.yaml is not YAML.
    """
    file = root / PIPELINE_FILE
    if not file.is_file():
        return None
    try:
        stages = nested_mapping(parse_yaml(file), "stages")
    except InputError as error:
        raise InputError(f"{file} {line}" for line in error.problems) from None

    places = _places(path, root)
    for name, stage in stages.items():
        for output in declared_outputs(stage):
            pattern = "[^/]+".join(map(re.escape, _PLACEHOLDER.split(output.rstrip("/"))))
            if any(re.fullmatch(f"{pattern}(/.*)?", place, re.DOTALL) for place in places):
                return name, output
    return None


def _places(path: Path, root: Path) -> set[str]:
    """Where a path is, relative to `root`: as it is written, and after following all links.

    DVC may keep outputs as links into its cache, so following links alone would miss them.
    """
    # Not with Path, which keeps `..` and raises for a link to itself.
    written = os.path.relpath(os.path.abspath(root / path), os.path.abspath(root))  # noqa: PTH100
    followed = os.path.relpath(os.path.realpath(root / path), os.path.realpath(root))
    return {Path(written).as_posix(), Path(followed).as_posix()}
