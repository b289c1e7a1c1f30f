"""DVC's experiments as Git stores them: parameters, results, and a hash of their code."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from prunelab.config.params import PARAMS_FILE, Params
from prunelab.config.safe_yaml import parse_yaml
from prunelab.core import plugins
from prunelab.core.errors import InputError
from prunelab.core.files import json_bytes, parse_json
from prunelab.core.mappings import nested_mapping
from prunelab.core.stage_code import stage_digests
from prunelab.project.dvc_lock import split_entries
from prunelab.project.git import changed_files, git, show, show_bytes
from prunelab.project.metrics import parse_mapping, read_metrics
from prunelab.project.paths import (
    DENSE_METRICS,
    ENVIRONMENT,
    LOCK_FILE,
    METRICS,
    PIPELINE_FILE,
    TARGET,
)
from prunelab.project.stage_outputs import declared_outputs

# The result of a setting. Keys: experiment, baseline, code, parameters, metrics, dense and
# environment.
Record = dict[str, Any]

CODE_STAGE = "code"  # writes digests of the code that the other stages run
EXPERIMENT_REFERENCE = re.compile(r"refs/exps/(?P<baseline>[0-9a-f]{2}/[0-9a-f]{38})/(?P<name>.+)")


@dataclass(frozen=True)
class StageClosure:
    """Everything that a stage depends on, directly or through other stages.

    `files` are those that no stage writes, and `parameters` are dotted keys of params.yaml. The
    `stages`, with their `commands`, are the stage itself and all stages before it.
    `outputs_in_git` are what they write without DVC's cache. `installed_code` are the files with
    digests of this package that they read, in a project that does not have the package's source.
    """

    files: list[str]
    parameters: list[str]
    commands: list[str]
    stages: list[str]
    outputs_in_git: list[str]
    installed_code: list[str]

    def select(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters that these stages read, by dotted key."""
        return {key: value_at(params, key) for key in self.parameters}


def value_at(params: Mapping[str, Any], key: str) -> Any:
    """Return the parameter at a dotted key, None if there is none."""
    section, _, inner_key = key.partition(".")
    value = params.get(section)
    if not inner_key:
        return value
    if isinstance(value, Mapping):
        return value.get(inner_key)
    return None


@cache
def stage_closure(pipeline: str, target: str = TARGET) -> StageClosure:
    """Return everything that a stage depends on, from the text of dvc.yaml.

    Stages with a `matrix` are left out: no target depends on them.

    Raises:
        InputError: if there is no such stage, or if the text is no mapping in YAML.
    """
    content = parse_mapping(PIPELINE_FILE, pipeline, parse_yaml)
    stages = {}
    for name, stage in nested_mapping(content, "stages").items():
        if not isinstance(stage, Mapping):
            raise InputError(f"{PIPELINE_FILE}: stage {name} is empty, or no mapping")
        if "matrix" not in stage:
            stages[name] = stage
    if target not in stages:
        raise InputError(f"dvc.yaml has no stage {target}. Stages: {', '.join(stages) or 'none'}")

    reached, files = _reach(stages, target)
    for name in sorted(reached):
        if "cmd" not in stages[name]:
            raise InputError(f"{PIPELINE_FILE}: stage {name} has no cmd")

    commands = [json.dumps(stages[name]["cmd"]) for name in sorted(reached)]
    parameters: set[str] = set()
    outputs_in_git = []
    for name in sorted(reached):
        keys, parameter_files = declared_parameters(stages[name])
        parameters.update(keys)
        files.update(parameter_files)
        for path, options in declared_outputs(stages[name]).items():
            if options.get("cache") is False:
                outputs_in_git.append(path)

    return StageClosure(
        files=sorted(files),
        parameters=sorted(parameters),
        commands=commands,
        stages=sorted(reached),
        outputs_in_git=outputs_in_git,
        installed_code=_installed_code(stages, reached),
    )


def declared_parameters(stage: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return the keys of params.yaml that a stage of dvc.yaml reads, and its other parameter files.

    An entry that is a mapping names its file: `{own.yaml: [key]}`, or `{own.yaml: null}` for all
    keys of it.
    """
    keys: list[str] = []
    files = []
    for entry in stage.get("params") or []:
        if isinstance(entry, str):
            keys.append(entry)
            continue
        for file, keys_of_file in entry.items():
            if file != str(PARAMS_FILE):
                files.append(file)
            elif keys_of_file is None:
                keys += Params.model_fields
            else:
                keys += keys_of_file
    return keys, files


def _installed_code(stages: Mapping[str, Any], reached: Iterable[str]) -> list[str]:
    """What the stages read of stage `code`, if that looks at the installed package.

    It then always runs, since no file of the project says what it will find.
    """
    if not stages.get(CODE_STAGE, {}).get("always_changed"):
        return []
    written = declared_outputs(stages[CODE_STAGE])
    read: set[str] = set()
    for name in reached:
        read.update(path for path in stages[name].get("deps") or [] if path in written)
    return sorted(read)


def _reach(stages: Mapping[str, Any], target: str) -> tuple[set[str], set[str]]:
    """Return the target with all stages before it, and the files that none of them writes."""
    stage_of_output = {}
    for name, stage in stages.items():
        for output in declared_outputs(stage):
            stage_of_output[output] = name

    queue = [target]
    reached: set[str] = set()
    files: set[str] = set()
    while queue:
        name = queue.pop()
        if name in reached:
            continue
        reached.add(name)
        for dependency in stages[name].get("deps") or []:
            writers = [
                writer for output, writer in stage_of_output.items() if _overlap(output, dependency)
            ]
            queue += writers
            if not writers:
                files.add(dependency)

    return reached, files


def _overlap(path: str, other_path: str) -> bool:
    """Whether two paths are the same, or one is a folder that holds the other."""
    if path == other_path:
        return True
    return path.startswith(f"{other_path}/") or other_path.startswith(f"{path}/")


def digest(content: Any) -> str:
    """Return a hash of 12 hexadecimal digits of anything that JSON can hold."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def code_of(root: Path, revision: str) -> str:
    """Return a hash of the commands and of all files in a commit that the target depends on.

    If the project does not have this package's source, the commit's dvc.lock says by which files of
    the package its results were made.

    Raises:
        InputError: if the commit is no project's, or if its dvc.lock does not say that.
    """
    closure = stage_closure(show(root, revision, PIPELINE_FILE))
    if not closure.installed_code:
        return _code_digest(root, revision, closure, {})

    entries = split_entries(show(root, revision, LOCK_FILE)) or {}
    hashes = {}
    if CODE_STAGE in entries:
        for output in parse_yaml(entries[CODE_STAGE])[CODE_STAGE]["outs"]:
            hashes[output["path"]] = output["md5"]
    if not hashes.keys() >= set(closure.installed_code):
        raise InputError(f"{LOCK_FILE} of {revision} does not say which code made its results")
    return _code_digest(root, revision, closure, hashes)


def current_code(root: Path, revision: str = "HEAD") -> str:
    """Return what `code_of` gives for results that a commit makes now, with this package.

    Plugins count as they are in the working directory: `require_committed` is asked about them.
    """
    closure = stage_closure(show(root, revision, PIPELINE_FILE))
    hashes = {}
    for path in closure.installed_code:
        content = json_bytes(stage_digests(Path(path).stem))
        hashes[path] = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return _code_digest(root, revision, closure, hashes)


def _code_digest(
    root: Path, revision: str, closure: StageClosure, hashes: Mapping[str, str]
) -> str:
    listing = git(root, "ls-tree", "-r", revision, "--", *closure.files)
    content: list[Any] = [closure.commands, listing]
    if closure.installed_code:
        content.append([hashes[path] for path in closure.installed_code])
    return digest(content)


def require_committed(root: Path, closure: StageClosure, reason: str) -> None:
    """Refuse files of the closure, dvc.yaml included, that differ from the last commit.

    `reason` says why they may not differ.

    Raises:
        InputError: with one line per file.
    """
    files = list(closure.files)
    if closure.installed_code:
        files.append(str(plugins.FOLDER))  # of which only the digests are in the pipeline
    changed = changed_files(root, str(PIPELINE_FILE), *files)
    if changed:
        raise InputError(
            f"{path} differs from the last commit, and {reason}. "
            "Commit the file, or put it aside with git stash."
            for path in changed
        )


def experiment_name(
    study: str, setting: str, parameters: Mapping[str, Any], input_hashes: Mapping[str, Any]
) -> str:
    """Return the name of the experiment that measures a setting: study, setting and a short hash.

    The hash covers `parameters` and `input_hashes`. The latter are hashes of the user's own files:
    parameters name these files, and DVC does not track their content.
    """
    hashed = dict(parameters)
    for key, input_hash in input_hashes.items():
        hashed[f"{key} holds"] = input_hash
    return f"{_name_start(study, setting)}-{digest(hashed)[:8]}"


def _name_start(study: str, setting: str) -> str:
    # DVC refuses names with a slash, which some networks have, such as torchvision/resnet18.
    return f"{study}-{setting}".replace("/", "-")


@dataclass(frozen=True)
class Experiment:
    """A DVC experiment: its name, its commit, and the commit it was derived from."""

    name: str
    commit: str
    baseline: str


def experiments(root: Path) -> Iterator[Experiment]:
    """Yield DVC's experiments of every baseline, the newest first."""
    line_format = "--format=%(objectname) %(refname)"
    listing = git(root, "for-each-ref", "--sort=-creatordate", line_format, "refs/exps")

    for line in listing.splitlines():
        commit, reference = line.split(" ", 1)
        match = EXPERIMENT_REFERENCE.fullmatch(reference)
        if match:
            baseline = match["baseline"].replace("/", "")
            yield Experiment(name=match["name"], commit=commit, baseline=baseline)


def measured(root: Path, study: str, setting: str) -> Iterator[Record]:
    """Yield the records of all experiments that measured a setting, the newest first."""
    name_pattern = re.compile(rf"{re.escape(_name_start(study, setting))}-[0-9a-f]{{8}}")
    for experiment in experiments(root):
        if name_pattern.fullmatch(experiment.name):
            # An experiment made by hand may lack files that a study stores.
            with suppress(InputError):
                yield _record(root, experiment)


def _record(root: Path, experiment: Experiment) -> Record:
    commit = experiment.commit

    def read(path: Path) -> str:
        return show(root, commit, path)

    return {
        "experiment": experiment.name,
        "baseline": experiment.baseline,
        "code": code_of(root, commit),
        "parameters": parse_yaml(read(PARAMS_FILE)),
        "metrics": read_metrics(METRICS, read),
        "dense": read_metrics(DENSE_METRICS, read),
        "environment": _committed_environment(root, commit),
    }


def _committed_environment(root: Path, commit: str) -> Any:
    try:
        environment = show_bytes(root, commit, ENVIRONMENT)
        metrics = show_bytes(root, commit, METRICS)
        return environment_of(environment, metrics)
    except InputError:
        return None


def environment_of(content: bytes, metrics: bytes) -> Any:
    """Return the content of an environment file; None if it does not belong to these metrics.

    The file is no output of a stage. After a change of metrics it may still describe older ones.

    Raises:
        InputError: if the content is not JSON.
    """
    environment = parse_json(content)
    if not isinstance(environment, dict):
        return None
    if environment.pop("metrics_sha256", None) != hashlib.sha256(metrics).hexdigest():
        return None
    return environment


def prefer_current_code(records: Sequence[Record], code: str) -> Record | None:
    """Return the first record that this code made; if there is none, the first of all."""
    for record in records:
        if record["code"] == code:
            return record
    if records:
        return records[0]
    return None
