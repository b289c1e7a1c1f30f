"""Repeat a commit's pipeline in a clone, from nothing, in surroundings that must not matter."""

import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from functools import partial
from pathlib import Path

from prunelab.commands.common import last_lines
from prunelab.commands.repro.runner import ReproResult, reproduce
from prunelab.config.safe_yaml import parse_yaml
from prunelab.core.errors import InputError
from prunelab.core.mappings import nested_mapping
from prunelab.project.clones import cache_folder, clone_at, use_cache
from prunelab.project.dvc_graph import Pipeline, load_pipeline, open_repo
from prunelab.project.metrics import parse_mapping
from prunelab.project.outputs import restore_outputs
from prunelab.project.paths import LOCK_FILE

# Surroundings of every run but the first. None of them may change a result.
OTHER_VARIABLES = {
    "TZ": "Pacific/Kiritimati",
    "LC_ALL": "C",
    "PYTHONHASHSEED": "1",
    "COLUMNS": "40",
    "USER": "somebody",
}
OTHER_UMASK = 0o077

Outputs = dict[str, str]  # DVC's hash of a file, or of a folder's listing, by path


def bare_clone(root: Path, clone: Path, commit: str) -> Path:
    """Clone a commit with an empty cache and without any result, so that every stage has to run.

    Returns:
        The project's folder in the clone.

    Raises:
        InputError: if dvc.lock names outputs outside of the project; nothing is removed then.
    """
    folder = clone_at(root, clone, commit)
    use_cache(folder, folder / ".dvc/cache")

    results = [folder / path for path in outputs(lock_of(folder))]
    outside = [path for path in results if not path.resolve().is_relative_to(folder.resolve())]
    if outside:
        raise InputError(
            f"{LOCK_FILE}: {path} lies outside of the project, so it cannot be repeated"
            for path in outside
        )

    for path in [*results, folder / LOCK_FILE]:
        _remove(path)
    return folder


def committed_clone(root: Path, clone: Path, commit: str) -> Path:
    """Clone a commit, with those of its results that the project's cache still holds.

    Returns:
        The project's folder in the clone.
    """
    folder = clone_at(root, clone, commit)
    use_cache(folder, cache_folder(root))
    restore_outputs(folder)
    return folder


def repeatable(folder: Path, targets: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the targets, and all stages that they need, by whether their outputs must repeat.

    Without targets, all stages are split. Returns the stages that must repeat to the bit, and those
    that depend on a clock.

    Raises:
        InputError: for targets that are no stages, or that depend on a clock themselves.
    """
    # DVC names stages relative to the current folder.
    with chdir(folder), open_repo(folder) as repo:
        plan = load_pipeline(repo, targets)
    timed = clock_dependent(plan)

    refused = []
    for name in plan.stages:
        group = name.partition("@")[0]
        if name in timed and (name in targets or group in targets):
            refused.append(name)
    if refused:
        raise InputError(
            f"--stages: {', '.join(refused)} measures time, or shows it, and so does not repeat; "
            "valid: any other stage"
        )

    repeated = [name for name in plan.stages if name not in timed]
    left_out = [name for name in plan.stages if name in timed]
    return repeated, left_out


def clock_dependent(plan: Pipeline) -> set[str]:
    """The stages that measure time (`meta: {alone: true}` in dvc.yaml), and all that need them."""
    timed = set(plan.alone)
    while True:
        dependent = {name for name, needed in plan.needs.items() if needed & timed}
        if dependent <= timed:
            return timed
        timed |= dependent


def repeat(folder: Path, stages: Sequence[str], jobs: int, tell: Callable[[str], None]) -> None:
    """Run these stages in a clone.

    Raises:
        InputError: with the end of its log, if a stage fails.
    """
    with chdir(folder):
        outcome = reproduce(folder, stages, jobs, tell)
    if outcome.failed:
        raise InputError(_failure_lines(folder, outcome))


def _failure_lines(folder: Path, outcome: ReproResult) -> Iterator[str]:
    for stage, log in outcome.failed.items():
        yield f"{stage} failed; the end of its log:"
        yield from last_lines(folder / log).splitlines()


@contextmanager
def surroundings(variables: Mapping[str, str], umask: int) -> Iterator[None]:
    """Give new processes these environment variables, and this umask for their new files."""
    variables_before = dict(os.environ)
    umask_before = os.umask(umask)
    os.environ.update(variables)

    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(variables_before)
        os.umask(umask_before)


def lock_of(folder: Path) -> str:
    """The text of dvc.lock; empty if there is none."""
    path = folder / LOCK_FILE
    if not path.exists():
        return ""
    return path.read_text()


def outputs(lock: str, stages: Collection[str] | None = None) -> Outputs:
    """The outputs that the text of a dvc.lock records for these stages; None means all stages.

    Raises:
        InputError: if the text is no mapping in YAML, such as one with marks of a merge conflict.
    """
    if not lock:
        return {}
    content = parse_mapping(LOCK_FILE, lock, partial(parse_yaml, fast=True))

    hashes = {}
    for name, stage in nested_mapping(content, "stages").items():
        if stages is not None and name not in stages:
            continue
        for out in stage.get("outs", []):
            hashes[out["path"]] = out["md5"]
    return hashes


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
