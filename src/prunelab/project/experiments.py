"""What Git knows: DVC's experiments and their numbers, the code that made them, and what of the parameters they use."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from prunelab.config.safe_yaml import parse_yaml
from prunelab.core.errors import InputError
from prunelab.core.files import parse_json
from prunelab.project.git import git, git_bytes
from prunelab.project.paths import DENSE_METRICS, ENVIRONMENT, METRICS, TARGET

Record = dict[str, Any]  # experiment, baseline, code, parameters, metrics, dense, environment


@dataclass(frozen=True)
class Chain:
    """All that a stage rests on: files that no stage makes, keys of params.yaml, and commands."""

    files: list[str]
    parameters: list[str]
    commands: list[str]

    def used(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """What these stages read of the parameters, by dotted keys."""
        return {key: _at(params, key) for key in self.parameters}


def _at(params: Mapping[str, Any], key: str) -> Any:
    section, _, inner = key.partition(".")
    value = params.get(section)
    return value if not inner else value.get(inner) if isinstance(value, Mapping) else None


@cache
def chain(pipeline: str, target: str = TARGET) -> Chain:
    """Walk the text of dvc.yaml from a stage to everything it rests on."""
    stages = {
        name: stage
        for name, stage in parse_yaml(pipeline)["stages"].items()
        if "matrix" not in stage
    }
    makers = {out: name for name, stage in stages.items() for out in _outputs(stage)}
    if target not in stages:
        raise InputError(f"dvc.yaml has no stage {target}; there are: {', '.join(stages)}")
    queue, reached, files = [target], set(), set()
    while queue:
        name = queue.pop()
        if name not in reached:
            reached.add(name)
            for dep in stages[name].get("deps", []):
                owners = [maker for out, maker in makers.items() if _overlap(out, dep)]
                queue += owners
                files |= set() if owners else {dep}
    commands = [json.dumps(stages[name]["cmd"]) for name in sorted(reached)]
    parameters = {key for name in reached for key in stages[name].get("params", [])}
    return Chain(sorted(files), sorted(parameters), commands)


def _outputs(stage: Mapping[str, Any]) -> Iterator[str]:
    for kind in ("outs", "metrics", "plots"):
        for out in stage.get(kind, []):
            yield out if isinstance(out, str) else next(iter(out))


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")


def digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def code_of(root: Path, revision: str) -> str:
    """A hash of the commands and of every file that the target rests on, as they are in a commit."""
    used = chain(git(root, "show", f"{revision}:dvc.yaml"))
    return digest([used.commands, git(root, "ls-tree", "-r", revision, "--", *used.files)])


def uncommitted(root: Path, used: Chain) -> list[str]:
    """The files the target rests on that differ from the last commit."""
    status = git(root, "status", "--porcelain", "--", "dvc.yaml", *used.files)
    return [line[3:] for line in status.splitlines()]


def experiment_name(
    study: str, setting: str, used: Mapping[str, Any], held: Mapping[str, Any]
) -> str:
    """The name of the experiment that measures a setting: study, setting, and a short hash of its parameters.

    `held` are hashes of what the parameters name and DVC does not look into.
    """
    return f"{study}-{setting}-{digest({**used, **{f'{key} holds': its for key, its in held.items()}})[:8]}"


@dataclass(frozen=True)
class Experiment:
    """One of DVC's experiments: its name, its commit, and the commit it was derived from."""

    name: str
    commit: str
    baseline: str


def experiments(root: Path) -> Iterator[Experiment]:
    """DVC's experiments, whatever commit they rest on; the newest first."""
    listed = git(
        root,
        "for-each-ref",
        "--sort=-creatordate",
        "--format=%(objectname) %(refname)",
        "refs/exps",
    )
    for line in listed.splitlines():
        commit, reference = line.split(" ", 1)
        if found := re.fullmatch(r"refs/exps/([0-9a-f]{2})/([0-9a-f]{38})/(.+)", reference):
            yield Experiment(name=found[3], commit=commit, baseline=found[1] + found[2])


def measured(root: Path, study: str, setting: str) -> Iterator[Record]:
    """What DVC's experiments, whatever commit they rest on, say about a setting; the newest first."""
    for experiment in experiments(root):
        if re.fullmatch(rf"{re.escape(f'{study}-{setting}')}-[0-9a-f]{{8}}", experiment.name):
            with suppress(InputError):  # made by hand, without what a study stores
                yield _record(
                    root, experiment.commit, name=experiment.name, baseline=experiment.baseline
                )


def _record(root: Path, commit: str, *, name: str, baseline: str) -> Record:
    return {
        "experiment": name,
        "baseline": baseline,
        "code": code_of(root, commit),
        "parameters": parse_yaml(git(root, "show", f"{commit}:params.yaml")),
        "metrics": parse_json(git(root, "show", f"{commit}:{METRICS}")),
        "dense": parse_json(git(root, "show", f"{commit}:{DENSE_METRICS}")),
        "environment": _environment(root, commit),
    }


def _environment(root: Path, commit: str) -> Any:
    try:
        return environment_of(
            *(git_bytes(root, "show", f"{commit}:{path}") for path in (ENVIRONMENT, METRICS))
        )
    except InputError:
        return None


def environment_of(noted: bytes, metrics: bytes) -> Any:
    """What the file of an environment says, if it belongs to these metrics: it is no output of a stage, so one that
    belongs to other numbers may lie there.
    """
    environment = parse_json(noted)
    if not isinstance(environment, dict):
        return None
    return (
        environment
        if environment.pop("metrics_sha256", None) == hashlib.sha256(metrics).hexdigest()
        else None
    )


def prefer_current_code(fitting: Sequence[Record], code: str) -> Record | None:
    """The first record, or the first made by this code if there is one."""
    return next(
        (record for record in fitting if record["code"] == code), fitting[0] if fitting else None
    )
