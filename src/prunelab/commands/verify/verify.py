"""Verify a commit: repeat it, and compare the runs with each other and with its own results."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from prunelab.commands.studies.validate import files_left_behind
from prunelab.commands.verify.outcome import (
    OutputComparison,
    compare_outputs,
    explain,
    other_environment,
)
from prunelab.commands.verify.rerun import (
    OTHER_UMASK,
    OTHER_VARIABLES,
    Outputs,
    bare_clone,
    committed_clone,
    lock_of,
    outputs,
    repeat,
    repeatable,
    surroundings,
)
from prunelab.config.params import Runtime, load_params
from prunelab.core.errors import InputError
from prunelab.project.lock_state import lock_state
from prunelab.project.paths import LOCK_FILE
from prunelab.project.trees import Tree
from prunelab.runtime.device import configure, fingerprint

Tell = Callable[[str], None]


@dataclass(frozen=True)
class RepeatResult:
    """Finished runs of these stages: the project in a clone for each run, and its outputs."""

    stages: list[str]
    runtime: Runtime
    clones: list[Path]
    outputs: list[Outputs]


def verify_commit(
    tree: Tree, targets: Sequence[str], folder: Path, *, runs: int, jobs: int, tell: Tell
) -> bool:
    """Repeat a commit `runs` times in clones in `folder`, and report every difference by `tell`.

    Returns whether everything is the same to the bit that has to be.

    Raises:
        InputError: for targets that are no stages, unusable parameters, or a stage that fails.
    """
    result = _repeat(tree, targets, folder, runs=runs, jobs=jobs, tell=tell)

    runs_agree = True
    for number in range(1, runs):
        comparison = compare_outputs(result.outputs[0], result.outputs[number])
        tell(f"runs 1 and {number + 1}: {comparison.describe()}")
        for line in explain(comparison, result.clones[0], result.clones[number]):
            tell(line)
        runs_agree = runs_agree and comparison.equal

    committed_agree = _compare_with_committed(tree, result, folder, tell)
    return committed_agree and runs_agree


def _repeat(
    tree: Tree, targets: Sequence[str], folder: Path, *, runs: int, jobs: int, tell: Tell
) -> RepeatResult:
    assert tree.commit is not None
    names = ["run 1"] + [f"run {number} in another folder" for number in range(2, runs + 1)]
    clones = [bare_clone(tree.root, folder / name, tree.commit) for name in names]

    params = load_params(clones[0] / "params.yaml")
    problems = files_left_behind(tree.root, params.model_dump(), elsewhere=False)
    if problems:
        raise InputError(problems)

    stages, timed = repeatable(clones[0], targets)
    if timed:
        tell(f"left out, because they depend on a clock: {', '.join(timed)}")

    results = []
    for number, clone in enumerate(clones, start=1):
        tell(f"run {number} of {runs}: {len(stages)} stages of {tree.commit[:8]}")
        start = time.monotonic()

        if number == 1:
            repeat(clone, stages, jobs, tell)
        else:
            with surroundings(OTHER_VARIABLES, OTHER_UMASK):
                repeat(clone, stages, jobs, tell)
        written = outputs(lock_of(clone), stages)

        seconds = time.monotonic() - start
        tell(f"run {number} of {runs}: {len(written)} outputs after {seconds:,.0f} s")
        results.append(written)
    return RepeatResult(stages, params.runtime, clones, results)


def _compare_with_committed(tree: Tree, result: RepeatResult, folder: Path, tell: Tell) -> bool:
    """Compare the first run with the commit's own results.

    Returns False only if they differ although the commit was made in an environment like this one.
    """
    committed = outputs((tree.read(str(LOCK_FILE)) or b"").decode(), result.stages)
    if not committed:
        tell("the commit has no results of its own to compare with")
        return True

    state = lock_state(tree)
    if state.stale:
        reason = ", ".join(state.stages) or state.trouble
        tell(
            "dvc.lock does not belong to the commit's own code, parameters and data "
            f"({reason}): not compared"
        )
        return True

    comparison = compare_outputs(committed, result.outputs[0])
    environment = other_environment(tree, fingerprint(configure(result.runtime)))
    if environment is None:
        tell(
            "the commit does not say on what its results were made; "
            f"of them {comparison.describe()}"
        )
        return True

    if environment:
        tell(
            "the committed results were made on another environment, so they need not be the same; "
            f"{comparison.describe()}"
        )
        for key, values in environment.items():
            tell(f"  {key}: {values}")
        return True

    tell(f"the commit and run 1: {comparison.describe()}")
    if comparison.equal:
        return True
    _explain_committed(tree, comparison, result, folder, tell)
    return False


def _explain_committed(
    tree: Tree, comparison: OutputComparison, result: RepeatResult, folder: Path, tell: Tell
) -> None:
    assert tree.commit is not None
    committed = committed_clone(tree.root, folder / "committed", tree.commit)
    for line in explain(comparison, committed, result.clones[0]):
        tell(line)
