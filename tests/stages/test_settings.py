"""Stage settings: one file for each stage of the grid, which changes whenever a value does."""

import json
from pathlib import Path

import pytest

from prunelab.core.errors import InputError
from prunelab.stages import settings

PARAMS = """
seeds: [0, 1]
prune: {penalty: 1.0e-9, iterations: 4}
finetune: {epochs: 8, distill: 0.0, milestones: [], name: null}
"""
STAGES = ["prune=seeds,prune", "finetune=seeds,finetune.epochs,finetune.distill"]


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(project: Path, params: str, stages: list[str] = STAGES) -> dict[str, str]:
    (project / "params.yaml").write_text(params)
    settings.main(project / "out", stages)
    return {file.stem: file.read_text() for file in (project / "out").iterdir()}


def test_every_stage_has_the_values_of_its_keys(project):
    files = {name: json.loads(text) for name, text in written(project, PARAMS).items()}

    assert files == {
        "prune": {"seeds": [0, 1], "prune": {"penalty": 1e-9, "iterations": 4}},
        "finetune": {"seeds": [0, 1], "finetune.epochs": 8, "finetune.distill": 0.0},
    }


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("1.0e-9", "1.1e-9", {"prune"}),
        ("iterations: 4", "iterations: 4.0", {"prune"}),
        ("iterations: 4", "iterations: '4'", {"prune"}),
        ("epochs: 8", "epochs: 9", {"finetune"}),
        ("distill: 0.0", "distill: false", {"finetune"}),
        ("[0, 1]", "[1, 0]", {"prune", "finetune"}),
        ("milestones: []", "milestones: [1]", set()),
        ("penalty: 1.0e-9, iterations: 4", "iterations: 4, penalty: 1.0e-9  # a comment\n", set()),
    ],
)
def test_a_changed_value_changes_the_files_of_the_stages_that_list_it(project, old, new, changed):
    before = written(project, PARAMS)
    after = written(project, PARAMS.replace(old, new))

    assert {name for name in before if before[name] != after[name]} == changed


@pytest.mark.parametrize("missing", ["prune.floor", "grid", "prune.penalty.base"])
def test_a_parameter_that_is_missing_is_named(project, missing):
    with pytest.raises(InputError, match=f"{missing} is missing"):
        written(project, PARAMS, [f"prune={missing}"])
