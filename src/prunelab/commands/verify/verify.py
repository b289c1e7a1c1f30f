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
class VerifyPlan:
    """What to repeat, and with what to compare it.

    `stages` are the names of stages and groups, empty for all. `against` is a commit whose results
    count instead of the repeated commit's own, and count on any machine.
    """

    stages: Sequence[str]
    runs: int
    jobs: int
    against: Tree | None = None


@dataclass(frozen=True)
class RepeatResult:
    """Finished runs of these stages: the project in a clone for each run, and its outputs."""

    stages: list[str]
    runtime: Runtime
    clones: list[Path]
    outputs: list[Outputs]


def verify_commit(tree: Tree, plan: VerifyPlan, folder: Path, tell: Tell) -> bool:
    """Repeat a commit in clones in `folder`, and report every difference by `tell`.

    Returns whether everything is the same to the bit that has to be.

    Raises:
        InputError: for names that are no stages, unusable parameters, a stage that fails, or a
            commit without results to compare with.
    """
    if plan.against and not outputs(_committed_lock(plan.against)):
        raise InputError(f"--against: {plan.against.name} has no results; {LOCK_FILE} names none")
    result = _repeat(tree, plan, folder, tell)

    runs_agree = True
    for number in range(1, plan.runs):
        comparison = compare_outputs(result.outputs[0], result.outputs[number])
        tell(f"runs 1 and {number + 1}: {comparison.describe()}")
        for line in explain(comparison, result.clones[0], result.clones[number]):
            tell(line)
        runs_agree = runs_agree and comparison.equal

    if plan.against:
        committed_agree = _compare_with_other(plan.against, result, folder, tell)
    else:
        committed_agree = _compare_with_committed(tree, result, folder, tell)
    return committed_agree and runs_agree


def _committed_lock(tree: Tree) -> str:
    """The text of a commit's dvc.lock; empty if it has none."""
    return (tree.read(str(LOCK_FILE)) or b"").decode()


def _repeat(tree: Tree, plan: VerifyPlan, folder: Path, tell: Tell) -> RepeatResult:
    runs = plan.runs
    assert tree.commit is not None
    names = ["run 1"] + [f"run {number} in another folder" for number in range(2, runs + 1)]
    clones = [bare_clone(tree.root, folder / name, tree.commit) for name in names]

    params = load_params(clones[0] / "params.yaml")
    problems = files_left_behind(tree.root, params.model_dump(), elsewhere=False)
    if problems:
        raise InputError(problems)

    stages, timed = repeatable(clones[0], plan.stages)
    if timed:
        tell(f"left out, because they depend on a clock: {', '.join(timed)}")

    results = []
    for number, clone in enumerate(clones, start=1):
        tell(f"run {number} of {runs}: {len(stages)} stages of {tree.commit[:8]}")
        start = time.monotonic()

        if number == 1:
            repeat(clone, stages, plan.jobs, tell)
        else:
            with surroundings(OTHER_VARIABLES, OTHER_UMASK):
                repeat(clone, stages, plan.jobs, tell)
        written = outputs(lock_of(clone), stages)

        seconds = time.monotonic() - start
        tell(f"run {number} of {runs}: {len(written)} outputs after {seconds:,.0f} s")
        results.append(written)
    return RepeatResult(stages, params.runtime, clones, results)


def _compare_with_other(other: Tree, result: RepeatResult, folder: Path, tell: Tell) -> bool:
    """Compare the first run with the results of another commit, wherever those were made.

    Returns whether they are the same.
    """
    comparison = compare_outputs(outputs(_committed_lock(other), result.stages), result.outputs[0])
    if comparison.equal:
        tell(f"same bits: {comparison.describe()} as those of {other.name}")
        return True

    tell(f"{other.name} and run 1: {comparison.describe()}")
    environment = other_environment(other, fingerprint(configure(result.runtime)))
    for key, values in (environment or {}).items():
        tell(f"  {key}: {values}")
    _explain_committed(other, comparison, result, folder, tell)
    return False


def _compare_with_committed(tree: Tree, result: RepeatResult, folder: Path, tell: Tell) -> bool:
    """Compare the first run with the commit's own results.

    Returns False only if they differ although the commit was made in an environment like this one.
    """
    committed = outputs(_committed_lock(tree), result.stages)
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
