"""What is to be done: a Job for every setting, and which of them no experiment by this code has measured yet."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunelab.config.params import Params
from prunelab.core.errors import InputError
from prunelab.project.experiments import (
    chain,
    code_of,
    digest,
    experiment_name,
    experiments,
    uncommitted,
)
from prunelab.project.git import git
from prunelab.project.paths import METRICS, RAW

DENSE_TARGET = "train_base"

Parameters = Mapping[str, Any]
Settings = Mapping[str, Parameters]


@dataclass(frozen=True)
class Job:
    """A setting to measure: what to call it on the screen, the experiment's name, and its parameters.

    `held` are hashes of what the user's own names stand for; `dense` is the same for settings of one dense network.
    """

    label: str
    name: str
    params: Parameters
    held: Mapping[str, Any]
    dense: str


def jobs_of(
    root: Path, settings: Settings, called: Callable[[str, Parameters], tuple[str, str]]
) -> list[Job]:
    """A job for every setting; `called` says by which study and which setting its experiment is named.

    Raises:
        InputError: if files that the numbers rest on differ from the last commit.
    """
    pipeline = (root / "dvc.yaml").read_text()
    used, dense = chain(pipeline), chain(pipeline, DENSE_TARGET)
    if changed := uncommitted(root, used):
        raise InputError(
            f"{path} differs from the last commit; studies run that commit, so that results name one: commit it, or "
            "put it aside with git stash"
            for path in changed
        )
    held = contents_of(root, settings)
    return [
        Job(
            label=label,
            name=experiment_name(*called(label, params), used.used(params), held[label]),
            params=params,
            held=held[label],
            dense=digest([dense.used(params), held[label]]),
        )
        for label, params in settings.items()
    ]


def contents_of(root: Path, settings: Settings) -> dict[str, Mapping[str, Any]]:
    """What lies behind the names that the user gave, by setting; read once where settings share it."""
    from prunelab.commands.check import contents

    known: dict[str, Mapping[str, Any]] = {}
    found = {}
    for label, params in settings.items():
        key = digest([params["dataset"], params["data"], params["model"], params["weights"]])
        if key not in known:
            known[key] = contents(Params.model_validate(params), root / RAW)
        found[label] = known[key]
    return found


def unmeasured(
    root: Path, jobs: Sequence[Job], revision: str, tell: Callable[[str], None]
) -> list[Job]:
    """The jobs that no experiment of their name, made by the code of this commit, has done; the others are told."""
    code = code_of(root, revision)
    made: dict[str, list[str]] = {}
    for experiment in experiments(root):
        made.setdefault(experiment.name, []).append(experiment.commit)
    pending = []
    for job in jobs:
        if any(_measures(root, commit, code) for commit in made.get(job.name, [])):
            tell(f"{job.label}: measured already ({job.name})")
        else:
            pending.append(job)
    return pending


def _measures(root: Path, commit: str, code: str) -> bool:
    """Whether a commit is of this code and has numbers; one made by hand may have none."""
    try:
        git(root, "cat-file", "-e", f"{commit}:{METRICS}")
        return code_of(root, commit) == code
    except InputError:
        return False


def one_of_each_dense(jobs: Sequence[Job]) -> dict[str, Job]:
    """The first job of every dense network, by what that network rests on."""
    return {job.dense: job for job in reversed(jobs)}
