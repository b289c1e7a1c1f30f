"""Commands find the project from any folder in it, and paths are those of where one typed."""

import json
import shutil
from pathlib import Path

import pytest
from helpers.networks import CARD, trained
from helpers.params import PROJECT
from helpers.plugins import NETWORK, write_plugins
from PIL import Image
from typer.testing import CliRunner

from prunelab.artifacts.networks import Network, plugins_of, save_network
from prunelab.cli import app
from prunelab.core import project_root
from prunelab.core.project_root import argument_path, find_project
from prunelab.models.networks import build


@pytest.fixture
def study(project) -> Path:
    """A project, and the working directory is a folder two levels down."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(PROJECT / name, project)
    (project / "notes/deep").mkdir(parents=True)
    return project


def run(*arguments: object):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.mark.parametrize(
    "arguments",
    [("check",), ("list", "layers"), ("list", "methods", "--fits")],
    ids=" ".join,
)
def test_a_command_in_a_folder_of_a_project_does_what_it_does_at_its_top(
    study, monkeypatch, arguments
):
    at_top = run(*arguments)
    monkeypatch.chdir(study / "notes/deep")

    below = run(*arguments)

    assert (below.exit_code, below.stdout) == (at_top.exit_code, at_top.stdout)
    assert Path.cwd() == study


def test_paths_are_those_of_the_folder_where_the_command_was_typed(study, monkeypatch):
    save_network(study / "notes/net.safetensors", Network(model=trained("resnet8"), card=CARD))
    monkeypatch.chdir(study / "notes/deep")

    result = run("export", "pt2", "../net.safetensors", "--out", "mine/net.pt2", "--rounds", 0)

    assert result.exit_code == 0, result.stderr
    assert (study / "notes/deep/mine/net.pt2").is_file()
    assert "notes/deep/mine/net.pt2: " in result.stdout
    assert not (study / "mine").exists()


def test_what_has_no_path_goes_to_the_top(study, monkeypatch):
    save_network(study / "notes/net.safetensors", Network(model=trained("resnet8"), card=CARD))
    monkeypatch.chdir(study / "notes")

    assert run("export", "pt2", "net.safetensors", "--rounds", 0).exit_code == 0

    (written,) = (study / "exports").iterdir()
    assert written.name.endswith("net.pt2")


def test_predict_stays_where_it_is_and_finds_the_plugins(study, monkeypatch):
    write_plugins(study, net=NETWORK)
    model = build("tiny", 10, (1, 8, 8)).eval()
    card = CARD.model_copy(update={"model": "tiny", "plugins": plugins_of(model="tiny")})
    save_network(study / "notes/net.safetensors", Network(model=model, card=card))
    Image.new("L", (9, 9)).save(study / "notes/deep/photo.png")
    monkeypatch.chdir(study / "notes/deep")

    result = run("predict", "../net.safetensors", "photo.png", "--json")

    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["input"] == "photo.png"


def test_a_folder_with_parameters_of_its_own_is_its_own_place(study, monkeypatch):
    shutil.copy(PROJECT / "params.yaml", study / "notes")
    monkeypatch.chdir(study / "notes")

    run("list", "datasets")

    assert Path.cwd() == study / "notes"


def test_above_a_project_the_message_names_the_folder_to_go_to(study, monkeypatch):
    outside = study / "notes/outside"
    shutil.copytree(study, outside / "study", ignore=shutil.ignore_patterns("notes"))
    (study / "params.yaml").unlink()
    monkeypatch.chdir(outside)

    result = run("list", "layers")

    assert result.exit_code == 1
    assert "Run this in the top folder of the project: cd study" in result.stderr


def test_the_folder_to_go_to_is_named_as_a_shell_takes_it(tmp_path, monkeypatch):
    (tmp_path / "my study").mkdir()
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / "my study" / name).touch()
    monkeypatch.chdir(tmp_path)

    assert "the project: cd 'my study'" in run("list", "layers").stderr


def test_a_folder_that_was_deleted_is_reported_in_a_line(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()

    result = run("compare")

    assert result.exit_code == 1
    assert result.stderr == "the current folder was deleted; go to another one: cd\n"


def test_the_nearest_project_counts(study):
    inner = study / "notes/deep"
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(PROJECT / name, inner)
    (inner / "below").mkdir()

    assert find_project(inner / "below") == inner
    assert find_project(study / "notes") == study


def test_paths_of_arguments_stay_as_typed_at_the_top(study):
    project_root.enter()

    assert argument_path("a/b.pt2") == Path("a/b.pt2")
    assert argument_path("/a/b.pt2") == Path("/a/b.pt2")
