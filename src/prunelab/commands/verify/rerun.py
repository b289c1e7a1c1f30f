"""A commit's pipeline once more: in a clone, from nothing, with whatever must not matter set otherwise."""

import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path

from ruamel.yaml import YAML

from prunelab.commands.common import last_lines
from prunelab.commands.repro.runner import Outcome, reproduce
from prunelab.core.errors import InputError
from prunelab.project.clones import cache_folder, clone_at, use_cache
from prunelab.project.dvc_graph import Pipeline, opened, pipeline

LOCK = Path("dvc.lock")
# None of these may change a result. They are not those of the first run, whatever that one has.
ELSEWHERE = {
    "TZ": "Pacific/Kiritimati",
    "LC_ALL": "C",
    "PYTHONHASHSEED": "1",
    "COLUMNS": "40",
    "USER": "somebody",
}
UMASK = 0o077

Outputs = dict[str, str]  # by path: DVC's hash of a file, or of a folder's listing


def bare_clone(root: Path, folder: Path, commit: str) -> None:
    """A clone of a commit with an empty cache and without any result, so that every stage has to run.

    Raises:
        InputError: if dvc.lock speaks of outputs outside of the project, before anything is removed.
    """
    clone_at(root, folder, commit)
    use_cache(folder, folder / ".dvc/cache")
    written = [folder / path for path in outputs(lock_of(folder))]
    if outside := [path for path in written if not path.resolve().is_relative_to(folder.resolve())]:
        raise InputError(
            f"{LOCK}: {path} lies outside of the project, so it cannot be repeated"
            for path in outside
        )
    for path in [*written, folder / LOCK]:
        _remove(path)


def committed_clone(root: Path, folder: Path, commit: str) -> None:
    """A clone of a commit with those of its results that the project's cache still has."""
    clone_at(root, folder, commit)
    use_cache(folder, cache_folder(root))
    with chdir(folder), opened(folder) as repo:
        repo.checkout(allow_missing=True)


def repeatable(folder: Path, targets: Sequence[str]) -> tuple[list[str], list[str]]:
    """The targets (all stages, if none are named) with all that they rest on; and of these what rests on a clock.

    Raises:
        InputError: for targets that are no stages, or rest on a clock themselves.
    """
    with chdir(folder), opened(folder) as repo:  # DVC names stages as seen from where one stands
        plan = pipeline(repo, targets)
    timed = resting_on_clock(plan)
    if asked := [
        name
        for name in plan.stages
        if name in timed and {name, name.partition("@")[0]} & {*targets}
    ]:
        raise InputError(
            f"--stages: {', '.join(asked)} measures time, or shows it, and so does not repeat; valid: any other"
        )
    return [name for name in plan.stages if name not in timed], [
        name for name in plan.stages if name in timed
    ]


def resting_on_clock(plan: Pipeline) -> set[str]:
    """The stages that measure time (`meta: {alone: true}` in dvc.yaml), and those that need what they wrote."""
    timed = set(plan.alone)
    while more := {name for name, needed in plan.needs.items() if needed & timed} - timed:
        timed |= more
    return timed


def repeat(folder: Path, stages: Sequence[str], jobs: int, tell: Callable[[str], None]) -> None:
    """Run these stages in a clone.

    Raises:
        InputError: with the end of its log, if a stage fails.
    """
    with chdir(folder):
        outcome = reproduce(folder, stages, jobs, tell)
    if outcome.failed:
        raise InputError(_told(folder, outcome))


def _told(folder: Path, outcome: Outcome) -> Iterator[str]:
    for stage, log in outcome.failed.items():
        yield f"{stage} failed; the end of its log:"
        yield from last_lines(folder / log).splitlines()


@contextmanager
def environment(variables: Mapping[str, str], umask: int | None) -> Iterator[None]:
    """Within, new processes get these variables and this mask for the rights of new files (None: as they are)."""
    before = dict(os.environ)
    mask = os.umask(umask) if umask is not None else None
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        if mask is not None:
            os.umask(mask)


def lock_of(folder: Path) -> str:
    """The text of dvc.lock; empty where there is none."""
    path = folder / LOCK
    return path.read_text() if path.exists() else ""


def outputs(lock: str, stages: Collection[str] | None = None) -> Outputs:
    """What a dvc.lock says that these stages, or all, have written."""
    locked = (YAML(typ="safe").load(lock) or {}).get("stages", {})
    chosen = [stage for name, stage in locked.items() if stages is None or name in stages]
    return {out["path"]: out["md5"] for stage in chosen for out in stage.get("outs", [])}


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
