"""What DVC's own commands report: whether dvc.lock is up to date, and differences of revisions."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prunelab.core.errors import InputError
from prunelab.project.git import check_out, git, prefix, top_folder
from prunelab.project.paths import PIPELINE_FILE
from prunelab.project.trees import Tree

STALE_STAGE = re.compile(r"(?:Running stage|failed to reproduce) '([^']+)'")

# By file and key: the values `old` and `new`, one of which may be missing.
Differences = dict[str, dict[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class LockState:
    """The stages that would run again, and why DVC could not check all of them, if it could not."""

    stages: list[str]
    trouble: str = ""

    @property
    def stale(self) -> bool:
        """Whether dvc.lock may belong to other code, parameters or files."""
        return bool(self.stages or self.trouble)


def lock_state(tree: Tree) -> LockState:
    """Return whether dvc.lock has the hashes of the code, parameters and files beside it.

    Nothing runs, and no data is needed. A commit is checked in a temporary clone.
    """
    if tree.commit is None:
        return _dry_run(tree.root)

    with TemporaryDirectory(prefix="prunelab-review-") as folder:
        top = str(top_folder(tree.root))
        git(tree.root, "clone", "--quiet", "--shared", "--no-checkout", top, folder)
        check_out(tree.root, Path(folder), tree.commit)
        return _dry_run(folder / prefix(tree.root))


def _dry_run(folder: Path) -> LockState:
    if not (folder / PIPELINE_FILE).is_file():
        return LockState([], f"{PIPELINE_FILE} is missing")
    process = _dvc(folder, "repro", "--allow-missing", "--dry", "--keep-going")

    # The exit status does not suffice: for a stage that would run and has all inputs, DVC exits
    # with 0.
    stages = list(dict.fromkeys(STALE_STAGE.findall(process.stdout + process.stderr)))
    if process.returncode and not stages:
        return LockState([], _one_line(process.stderr))
    return LockState(stages)


def dvc_diff(kind: str, before: Tree, after: Tree) -> tuple[Differences, str]:
    """Return the output of `dvc metrics diff` or `dvc params diff`, and what DVC could not read.

    Metrics that did not change are included.

    Raises:
        InputError: with DVC's message, if it could compare nothing.
    """
    command = [kind, "diff", "--json"]
    if kind == "metrics":
        command.append("--all")
    # With a single commit, DVC compares it with the workspace.
    command += [tree.commit for tree in (before, after) if tree.commit]

    process = _dvc(before.root, *command)
    if process.returncode:
        raise InputError(f"dvc {kind} diff: {_one_line(process.stderr)}")
    differences: Differences = json.loads(process.stdout or "{}")
    return differences, _one_line(process.stderr)


def _dvc(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, errors="replace", check=False
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())
