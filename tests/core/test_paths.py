"""Paths: ~ means the home folder wherever one can be given, and a path may be a text."""

import importlib
import inspect
import json
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import pytest
import torch
import typer
from helpers.networks import CARD, trained
from helpers.params import PROJECT, edit_params

from prunelab import artifacts, config, models
from prunelab.artifacts.networks import Network, load_network, load_networks, save_network
from prunelab.artifacts.predictions import load_predictions
from prunelab.cli import app
from prunelab.commands.check.check import find_problems
from prunelab.config.params import load_params
from prunelab.config.safe_yaml import parse_yaml
from prunelab.core.files import read_json, sha256, user_path, write_json
from prunelab.core.project_root import argument_path
from prunelab.data.dataset import DataConfig
from prunelab.encoders.pretrained import find_folder
from prunelab.models.weights_source import weights_file

TEXT_OR_FILE = {parse_yaml}  # for which a text is no path


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_only_a_leading_tilde_is_the_home_folder(home):
    assert user_path("~") == home
    assert user_path("~/a/~/b") == home / "a/~/b"
    assert user_path(Path("~/a")) == home / "a"
    assert user_path("./~/a") == Path("~/a")
    assert user_path("~no-such-user/a") == Path("~no-such-user/a")


def test_every_path_in_params_yaml_may_begin_with_a_tilde(home):
    (home / "encoder").mkdir()

    assert weights_file("~/x.pth", "resnet8") == home / "x.pth"
    assert find_folder("~/encoder") == home / "encoder"
    assert DataConfig(Path(), path="~/images").place == home / "images"


def test_check_reads_weights_in_the_home_folder(home, monkeypatch):
    monkeypatch.chdir(home)
    (home / "params.yaml").write_text((PROJECT / "params.yaml").read_text())
    edit_params(home / "params.yaml", weights="~/x.pth")
    torch.save(trained("resnet8").state_dict(), home / "x.pth")

    assert find_problems() == []

    (home / "x.pth").unlink()
    (line,) = find_problems()
    assert f"no file {home / 'x.pth'}" in line


def path_parsers(group: typer.Typer) -> Iterator[tuple[str, Callable | None]]:
    """The name of every argument and option that is a path, and what makes a path of its text."""
    for command in group.registered_commands:
        for name, parameter in inspect.signature(command.callback).parameters.items():
            annotation, *details = get_args(parameter.annotation) or (None,)
            parts = get_args(annotation)
            if {Path, list[Path]} & {annotation, *parts}:
                yield name, details[0].parser
    for subgroup in group.registered_groups:
        yield from path_parsers(subgroup.typer_instance)


def test_every_path_of_a_command_may_begin_with_a_tilde():
    parsers = dict(path_parsers(app))

    assert set(parsers) == {
        *("out", "plot", "keep", "pictures", "model_file", "files"),
        *("work", "into", "other"),
    }
    assert set(parsers.values()) <= {user_path, argument_path}
    assert argument_path("~/x") == user_path("~/x") == Path.home() / "x"


def public_functions(*packages: object) -> Iterator[Callable]:
    for package in packages:
        for module_info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            module = importlib.import_module(module_info.name)
            for name, function in inspect.getmembers(module, inspect.isfunction):
                if function.__module__ == module.__name__ and not name.startswith("_"):
                    yield function


def test_functions_that_read_and_write_files_are_declared_to_take_a_text():
    narrow = []
    for function in public_functions(artifacts, config, models):
        for parameter in inspect.signature(function).parameters.values():
            if parameter.annotation is Path and function not in TEXT_OR_FILE:
                narrow.append(f"{function.__module__}.{function.__name__}: {parameter}")

    assert narrow == []


def test_a_text_is_as_good_as_a_path(home):
    save_network("~/n/0.safetensors", Network(model=trained("resnet8"), card=CARD))
    write_json("~/a.json", {"a": 1})

    assert load_network(str(home / "n/0.safetensors")).card == CARD
    assert load_network("~/n/0.safetensors").card == CARD
    assert load_networks("~/n", [0])[0].card == CARD
    assert load_params(str(PROJECT / "params.yaml")) == load_params(PROJECT / "params.yaml")
    assert read_json("~/a.json") == json.loads((home / "a.json").read_text())
    assert sha256(str(home / "a.json")) == sha256(home / "a.json")
    with pytest.raises(Exception, match="is missing"):
        load_predictions("~/none.safetensors")
