"""What DVC says: whether dvc.lock belongs to the code, and what differs in metrics and parameters."""

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
from prunelab.project.git import git
from prunelab.project.trees import Tree

WOULD_RUN = re.compile(r"(?:Running stage|failed to reproduce) '([^']+)'")
Differences = dict[
    str, dict[str, Mapping[str, Any]]
]  # by file and key: old and new, of which one may be missing


@dataclass(frozen=True)
class Lock:
    """`stages` would run again; `trouble` is why DVC could not tell of all."""

    stages: list[str]
    trouble: str = ""

    @property
    def stale(self) -> bool:
        return bool(self.stages or self.trouble)


def lock_state(tree: Tree) -> Lock:
    """Whether dvc.lock has the hashes of the code, parameters and files beside it. Nothing is run, nothing needed.

    A commit is looked at in a clone that goes away again.
    """
    if tree.commit is None:
        return _dry_run(tree.root)
    with TemporaryDirectory(prefix="prunelab-review-") as folder:
        git(tree.root, "clone", "--quiet", "--shared", "--no-checkout", ".", folder)
        git(Path(folder), "checkout", "--quiet", "--detach", tree.commit)
        return _dry_run(Path(folder))


def _dry_run(folder: Path) -> Lock:
    # The exit status alone would not do: a stage whose inputs are all here would run, and DVC ends with 0.
    done = _dvc(folder, "repro", "--allow-missing", "--dry", "--keep-going")
    stages = list(dict.fromkeys(WOULD_RUN.findall(done.stdout + done.stderr)))
    return Lock(stages, _words(done.stderr) if done.returncode and not stages else "")


def differences(kind: str, before: Tree, after: Tree) -> tuple[Differences, str]:
    """What `dvc metrics diff` or `dvc params diff` has, metrics that are the same too; and what it could not read.

    Raises:
        InputError: with what DVC said, if it could tell nothing.
    """
    commits = [
        tree.commit for tree in (before, after) if tree.commit
    ]  # without a second DVC takes the workspace
    everything = ["--all"] if kind == "metrics" else []
    done = _dvc(before.root, kind, "diff", "--json", *everything, *commits)
    if done.returncode:
        raise InputError(f"dvc {kind} diff: {_words(done.stderr)}")
    return json.loads(done.stdout or "{}"), _words(done.stderr)


def _dvc(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, errors="replace", check=False
    )


def _words(text: str) -> str:
    return " ".join(text.split())
