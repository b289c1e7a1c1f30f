"""The whole of a verification: repeat a commit, hold the runs against each other and against what it has committed."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from prunelab.commands.studies.validate import files_left_behind
from prunelab.commands.verify.outcome import compared, elsewhere, explained
from prunelab.commands.verify.rerun import (
    ELSEWHERE,
    LOCK,
    UMASK,
    Outputs,
    bare_clone,
    committed_clone,
    environment,
    lock_of,
    outputs,
    repeat,
    repeatable,
)
from prunelab.config.params import Runtime, load_params
from prunelab.core.errors import InputError
from prunelab.project.lock_state import lock_state
from prunelab.project.trees import Tree
from prunelab.runtime.device import configure, fingerprint

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Repeated:
    """Finished runs of these stages: a clone each, and what each has written."""

    stages: list[str]
    runtime: Runtime
    clones: list[Path]
    outputs: list[Outputs]


def verified(
    tree: Tree, targets: Sequence[str], folder: Path, *, runs: int, jobs: int, tell: Tell
) -> bool:
    """Repeat a commit `runs` times in clones in `folder`; whether all that had to be the same to the bit is.

    Raises:
        InputError: for targets that are no stages, parameters that cannot be used, or a stage that fails.
    """
    done = _repeat(tree, targets, folder, runs=runs, jobs=jobs, tell=tell)
    alike = True
    for number in range(1, runs):
        found = compared(done.outputs[0], done.outputs[number])
        tell(f"runs 1 and {number + 1}: {found.told()}")
        for line in explained(found, done.clones[0], done.clones[number]):
            tell(line)
        alike &= found.equal
    return _as_committed(tree, done, folder, tell) and alike


def _repeat(
    tree: Tree, targets: Sequence[str], folder: Path, *, runs: int, jobs: int, tell: Tell
) -> Repeated:
    assert tree.commit is not None
    clones = [
        folder / f"run {number}{' in another folder' * (number > 1)}"
        for number in range(1, runs + 1)
    ]
    for clone in clones:
        bare_clone(tree.root, clone, tree.commit)
    params = load_params(clones[0] / "params.yaml")
    if problems := files_left_behind(tree.root, params.model_dump(), elsewhere=False):
        raise InputError(problems)
    stages, timed = repeatable(clones[0], targets)
    if timed:
        tell(f"left out, since they rest on a clock: {', '.join(timed)}")
    written = []
    for number, clone in enumerate(clones, start=1):
        tell(f"run {number} of {runs}: {len(stages)} stages of {tree.commit[:8]}")
        begun = time.monotonic()
        with environment(*((ELSEWHERE, UMASK) if number > 1 else ({}, None))):
            repeat(clone, stages, jobs, tell)
        written.append(outputs(lock_of(clone), stages))
        tell(
            f"run {number} of {runs}: {len(written[-1])} outputs after {time.monotonic() - begun:,.0f} s"
        )
    return Repeated(stages, params.runtime, clones, written)


def _as_committed(tree: Tree, done: Repeated, folder: Path, tell: Tell) -> bool:
    """Whether the committed results are those of the first run, where they were to be; both is told."""
    assert tree.commit is not None
    committed = outputs((tree.read(str(LOCK)) or b"").decode(), done.stages)
    if not committed:
        tell("the commit has no results of its own to hold against")
        return True
    if (state := lock_state(tree)).stale:
        stale = ", ".join(state.stages) or state.trouble
        tell(
            f"dvc.lock does not belong to the commit's own code, parameters and data ({stale}): not held against"
        )
        return True
    found = compared(committed, done.outputs[0])
    other = elsewhere(tree, fingerprint(configure(done.runtime)))
    if other is None:
        tell(f"the commit does not say what its results were made on; of them {found.told()}")
    elif other:
        tell(
            f"the committed results were made on another environment, so they need not be the same; {found.told()}"
        )
        for key, values in other.items():
            tell(f"  {key}: {values}")
    else:
        tell(f"the commit and run 1: {found.told()}")
        if not found.equal:
            committed_clone(tree.root, folder / "committed", tree.commit)
            for line in explained(found, folder / "committed", done.clones[0]):
                tell(line)
            return False
    return True
