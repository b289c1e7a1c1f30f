"""Paths that the stages of dvc.yaml write."""

from pathlib import Path

import pytest
from helpers.params import PROJECT
from helpers.repository import STAGES

from prunelab.core.errors import InputError
from prunelab.project.stage_outputs import declared_outputs, writer_of


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("models/base/final/0.safetensors", ("train_base", "models/base/final")),
        ("models/base/final", ("train_base", "models/base/final")),
        ("models/../models/base//init/", ("train_base", "models/base/init")),
        ("data/prepared/train", ("prepare", "data/prepared/train")),
        ("metrics/focus.json", ("evaluate_focus", "metrics/focus.json")),
        ("models/grid/l1_n_of_m-0.5/pruned/0.st", ("prune", "models/grid/${key}/pruned")),
        ("models/base", None),
        ("models/base/final.safetensors", None),
        ("models/grid/pruned", None),
        ("models/grid/a/b/pruned", None),
        ("data/raw/mine.pt", None),
        ("../models/base/final", None),
        (".", None),
    ],
)
def test_a_path_in_an_output_has_the_stage_of_that_output(path, expected):
    assert writer_of(Path(path), PROJECT) == expected
    assert writer_of(PROJECT / path, PROJECT) == expected


def test_every_declared_output_has_its_stage():
    for name, stage in STAGES.items():
        for output in declared_outputs(stage):
            path = output.replace("${key}", "l1_channel-0.5")
            assert writer_of(Path(path), PROJECT) == (name, output)


def test_links_into_outputs_and_outputs_that_are_links_are_recognised(tmp_path):
    (tmp_path / "dvc.yaml").write_text("stages: {train: {cmd: x, outs: [models/net]}}\n")
    (tmp_path / "models/net").mkdir(parents=True)
    (tmp_path / "cached").write_text("in DVC's cache")
    (tmp_path / "models/net/0").symlink_to(tmp_path / "cached")
    (tmp_path / "mine").symlink_to("models/net")
    (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)

    expected = ("train", "models/net")
    for path in ("models/net/0", "mine", "again/models/net", "again/mine/x"):
        assert writer_of(Path(path), tmp_path) == expected
    assert writer_of(tmp_path / "again/models/net/0", tmp_path / "again") == expected
    assert writer_of(Path("cached"), tmp_path) is None


def test_a_project_without_a_pipeline_writes_nothing(tmp_path):
    assert writer_of(Path("models/base/final"), tmp_path) is None


@pytest.mark.parametrize("content", ["", "plots: [models/base/final]", "[]"])
def test_a_pipeline_without_stages_writes_nothing(tmp_path, content):
    (tmp_path / "dvc.yaml").write_text(content)

    assert writer_of(Path("models/base/final"), tmp_path) is None


def test_a_pipeline_that_is_not_yaml_is_an_error_that_names_it(tmp_path):
    (tmp_path / "dvc.yaml").write_text("stages: [")

    with pytest.raises(InputError, match=r"dvc\.yaml cannot be read as YAML"):
        writer_of(Path("x"), tmp_path)
