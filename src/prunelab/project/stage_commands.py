"""The stages of dvc.yaml as calls of Python modules, with the values of parameters filled in.

dvc.yaml alone says which stage runs with which arguments. Nothing here needs DVC.
"""

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prunelab.config.safe_yaml import parse_yaml
from prunelab.core.errors import InputError
from prunelab.project.experiments import declared_parameters, stage_closure, value_at
from prunelab.project.paths import TARGET
from prunelab.project.stage_outputs import declared_outputs

_COMMAND = re.compile(
    r"(?:PYTHONPATH=src )?python -m prunelab\.stages (?P<module>\w+) (?P<arguments>.+)", re.DOTALL
)
_PARAMETER = re.compile(r"\$\{([a-z_.]+)\}")


@dataclass(frozen=True)
class StageCall:
    """One command of a stage: a module of prunelab.stages, and its arguments."""

    module: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class PipelineStage:
    """A stage of dvc.yaml for one setting.

    `inputs` maps the paths that earlier stages write to the names of these stages. `parameters`
    holds the values that the stage reads, by dotted key.
    """

    name: str
    calls: tuple[StageCall, ...]
    inputs: Mapping[str, str]
    outputs: tuple[str, ...]
    parameters: Mapping[str, Any]


def stages_before(
    pipeline: str, params: Mapping[str, Any], target: str = TARGET
) -> list[PipelineStage]:
    """Return the stages that lead to a target, the last, in an order in which they can run.

    A stage whose only work is to write what DVC compares has no call here, and is left out.

    Raises:
        InputError: if there is no such stage, or if a command does not start a stage of this
            package.
    """
    content = parse_yaml(pipeline)["stages"]
    names = [name for name in stage_closure(pipeline, target).stages if name != "code"]
    writers = {}
    for name in names:
        for path in declared_outputs(content[name]):
            writers[path] = name

    inputs_by_stage = {}
    for name in names:
        dependencies = content[name].get("deps") or []
        inputs_by_stage[name] = {path: writers[path] for path in dependencies if path in writers}

    stages = []
    for name in _ordered(inputs_by_stage):
        keys, _ = declared_parameters(content[name])
        stage = PipelineStage(
            name=name,
            calls=tuple(_calls(name, content[name]["cmd"], params)),
            inputs=inputs_by_stage[name],
            outputs=tuple(declared_outputs(content[name])),
            parameters={key: value_at(params, key) for key in keys},
        )
        stages.append(stage)
    return stages


def _ordered(inputs_by_stage: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return the stages so that each comes after those whose outputs it reads."""
    ordered: list[str] = []
    while len(ordered) < len(inputs_by_stage):
        for name, inputs in inputs_by_stage.items():
            if name not in ordered and set(inputs.values()) <= set(ordered):
                ordered.append(name)
                break
        else:
            raise InputError("dvc.yaml: its stages depend on each other in a circle")
    return ordered


def _calls(stage: str, commands: str | list[str], params: Mapping[str, Any]) -> Iterator[StageCall]:
    if isinstance(commands, str):
        commands = [commands]
    for command in commands:
        match = _COMMAND.fullmatch(command.strip())
        if not match:
            raise InputError(
                f"dvc.yaml: the command of {stage} starts no stage of this package, so only DVC "
                "can run it. Leave out --here."
            )

        arguments = []
        for argument in shlex.split(match["arguments"]):
            arguments.append(_PARAMETER.sub(lambda key: str(value_at(params, key[1])), argument))
        yield StageCall(match["module"], tuple(arguments))
