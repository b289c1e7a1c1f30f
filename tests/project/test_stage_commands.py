"""The commands of dvc.yaml as calls, against those that DVC has noted in dvc.lock."""

import shlex

import pytest
from helpers.params import PROJECT
from ruamel.yaml import YAML

from prunelab.commands.new.project import pipeline as pipeline_of_new_project
from prunelab.config.params import read_params
from prunelab.core.errors import InputError
from prunelab.project.stage_commands import stages_before

PIPELINE = (PROJECT / "dvc.yaml").read_text()
PARAMS = read_params(PROJECT / "params.yaml")


def test_calls_are_the_commands_that_dvc_has_run():
    lock = YAML(typ="safe").load(PROJECT / "dvc.lock")["stages"]

    for stage in stages_before(PIPELINE, PARAMS):
        commands = lock[stage.name]["cmd"]
        if isinstance(commands, str):
            commands = [commands]
        expected = [shlex.split(command)[4:] for command in commands]
        assert [[call.module, *call.arguments] for call in stage.calls] == expected


def test_a_new_project_makes_the_same_calls_with_the_installed_package():
    assert stages_before(pipeline_of_new_project(), PARAMS) == stages_before(PIPELINE, PARAMS)


def test_every_stage_comes_after_those_whose_outputs_it_reads():
    stages = stages_before(PIPELINE, PARAMS)

    names = [stage.name for stage in stages]
    assert names[-1] == "evaluate_focus"
    assert "code" not in names
    assert not any(name.startswith("sensitivity") for name in names)
    for position, stage in enumerate(stages):
        assert set(stage.inputs.values()) <= set(names[:position])


def test_parameters_of_a_stage_are_those_that_dvc_yaml_lists():
    stages = {stage.name: stage for stage in stages_before(PIPELINE, PARAMS)}

    assert stages["prepare"].parameters["data.split_seed"] == PARAMS["data"]["split_seed"]
    assert "train" not in stages["prepare"].parameters
    assert stages["train_base"].parameters["train"] == PARAMS["train"]


@pytest.mark.parametrize("command", ["make base", "python -m mine.stages train_base a"])
def test_a_command_that_starts_no_stage_is_left_to_dvc(command):
    pipeline = f"stages: {{own: {{cmd: {command}}}}}"

    with pytest.raises(InputError, match=r"dvc\.yaml: the command of own starts no stage"):
        stages_before(pipeline, PARAMS, "own")


def test_stages_in_a_circle_are_refused():
    run = "PYTHONPATH=src python -m prunelab.stages prepare x"
    pipeline = f"""
stages:
  a: {{cmd: {run}, deps: [two], outs: [one]}}
  b: {{cmd: {run}, deps: [one], outs: [two]}}
"""
    with pytest.raises(InputError, match="in a circle"):
        stages_before(pipeline, PARAMS, "a")
