"""The work of a study or a sweep: one Job per setting, and which jobs still have to run.

Nothing runs here; `local` and the room `sweep/ray` run jobs.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunelab.config.params import Params
from prunelab.core.errors import InputError
from prunelab.project.experiments import (
    code_of,
    current_code,
    digest,
    experiment_name,
    experiments,
    require_committed,
    stage_closure,
)
from prunelab.project.git import holds
from prunelab.project.paths import METRICS, RAW

DENSE_TARGET = "train_base"  # the stage that makes the dense network

Parameters = Mapping[str, Any]
Settings = Mapping[str, Parameters]
NameParts = Callable[[str, Parameters], tuple[str, str]]
PrintLine = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """One setting to measure.

    `label` names it on the screen, `name` names its experiment. `input_hashes` are hashes of the
    user's own files behind names in `params`. Jobs with the same `dense_key` share a dense network.
    """

    label: str
    name: str
    params: Parameters
    input_hashes: Mapping[str, Any]
    dense_key: str


def plan_jobs(root: Path, settings: Settings, name_parts: NameParts) -> list[Job]:
    """Return a job for every setting.

    `name_parts` returns the study and the setting that name the experiment of a setting, from its
    label and its parameters.

    Raises:
        InputError: if files that the results depend on differ from the last commit.
    """
    pipeline = (root / "dvc.yaml").read_text(encoding="utf-8")
    focus_closure = stage_closure(pipeline)
    dense_closure = stage_closure(pipeline, DENSE_TARGET)
    require_committed(root, focus_closure, "every setting runs the code of that commit")

    hashes_by_label = hash_inputs(root, settings)
    jobs = []
    for label, params in settings.items():
        hashes = hashes_by_label[label]
        study, setting = name_parts(label, params)
        name = experiment_name(study, setting, focus_closure.select(params), hashes)

        job = Job(
            label=label,
            name=name,
            params=params,
            input_hashes=hashes,
            dense_key=digest([dense_closure.select(params), hashes]),
        )
        jobs.append(job)

    return jobs


def hash_inputs(root: Path, settings: Settings) -> dict[str, Mapping[str, Any]]:
    """Return the hashes of each setting's own input files, by label; shared files are read once."""
    from prunelab.commands.check.inputs import contents

    hashes_by_inputs: dict[str, Mapping[str, Any]] = {}
    hashes_by_label = {}
    for label, params in settings.items():
        inputs = digest([params["dataset"], params["data"], params["model"], params["weights"]])
        if inputs not in hashes_by_inputs:
            hashes_by_inputs[inputs] = contents(Params.model_validate(params), root / RAW)
        hashes_by_label[label] = hashes_by_inputs[inputs]

    return hashes_by_label


def pending_jobs(
    root: Path, jobs: Sequence[Job], revision: str, print_line: PrintLine
) -> list[Job]:
    """Return the jobs without an experiment made by the code of `revision`; print the others."""
    code = current_code(root, revision)
    commits_by_name: dict[str, list[str]] = {}
    for experiment in experiments(root):
        commits_by_name.setdefault(experiment.name, []).append(experiment.commit)

    pending = []
    for job in jobs:
        if measured_commit(root, commits_by_name.get(job.name, []), code):
            print_line(f"{job.label}: measured already ({job.name})")
        else:
            pending.append(job)
    return pending


def measured_commit(root: Path, commits: Iterable[str], code: str) -> str | None:
    """Return the first of the commits that has metrics which this code measured, if any does."""
    for commit in commits:
        try:
            # An experiment made by hand may have no metrics.
            if holds(root, commit, METRICS) and code_of(root, commit) == code:
                return commit
        except InputError:
            continue

    return None


def first_job_per_dense(jobs: Sequence[Job]) -> dict[str, Job]:
    """Return the first job of every dense network, by `dense_key`."""
    return {job.dense_key: job for job in reversed(jobs)}
