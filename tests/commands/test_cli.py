"""`prunelab check` and `prunelab list`: what they print, and their exit status."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest
import torch
from helpers.networks import DIGITS_SHAPE, UNSCALED_CARD
from helpers.params import PROJECT, edit_params
from typer.main import get_command
from typer.testing import CliRunner

from prunelab.artifacts.networks import Network, save_network, seed_file
from prunelab.cli import SECTIONS, app
from prunelab.commands.common import GIT_REPOSITORY_VARIABLES
from prunelab.datasets.datasets import DATASETS, Cifar
from prunelab.models.catalogue import LIBRARY, MODELS
from prunelab.models.networks import build
from prunelab.models.weights_packages import PACKAGE_OF
from prunelab.pruning.methods import METHODS


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((PROJECT / "params.yaml").read_text())
    return tmp_path


def run(*arguments: str):
    return CliRunner().invoke(app, arguments)


def check(**changes: object):
    """Run `prunelab check` with some keys of the shipped parameters changed."""
    edit_params(Path("params.yaml"), **changes)
    return run("check")


def test_shipped_parameters_have_no_problems(workspace):
    result = check()

    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"method": "l1_chanel"},
            ["method: unknown method 'l1_chanel'", "did you mean 'l1_channel'", "l2_channel"],
        ),
        ({"model": "resnet21"}, ["model: unknown model 'resnet21'", "vgg11_bn"]),
        ({"dataset": "mnist"}, ["dataset: unknown dataset 'mnist'", "digits, cifar10, cifar100"]),
        ({"grid__methods": ["l1_channel", "magic"]}, ["grid.methods: unknown method 'magic'"]),
        ({"grid__ratios": 0.8}, ["grid.ratios: 0.8 is not a list", "-S 'grid.ratios=[0.8]'"]),
        ({"ratio": 1}, ["ratio", "not 1"]),
        (
            {"prune__round_to": 8, "grid__ratios": [0.5], "ratio": 0.9},
            ["l1_channel at ratio 0.9", "round_to = 8"],
        ),
        (
            {"data__normalise": {"mean": [0.5] * 3, "std": [0.5] * 3}},
            ["data.normalise", "3 means", "1 channels"],
        ),
        ({"sensitivity__ratios": [1e-6]}, ["sensitivity.ratios: [1e-06]", "none or all"]),
        ({"weights": "no/such/file.pt"}, ["weights: no file no/such/file.pt"]),
    ],
)
def test_problem_is_one_line_on_stderr_and_exit_status_1(workspace, changes, words):
    result = check(**changes)

    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    for word in words:
        assert word in line


def test_problems_of_every_kind_are_reported_together(workspace):
    result = check(ratio=2, model="resnet21", grid__methods=["magic", "magic"], colour="red")

    # ratio, model, magic twice in one list, magic unknown (twice), colour
    assert len(result.stderr.splitlines()) == 6
    assert check(method="x", dataset="y").stderr.count("\n") > 6


def test_files_are_checked_even_if_a_value_is_wrong(workspace):
    normalise = {"mean": [0.5] * 2, "std": [0.5] * 2}

    result = check(ratio=1.5, weights="nofile.pt", data__normalise=normalise)

    words = {word.strip(":") for word in result.stderr.split()}
    assert len(result.stderr.splitlines()) == 3
    assert {"ratio", "weights", "data.normalise"} <= words


def test_weights_that_do_not_fit_the_classes_are_refused(workspace):
    torch.save(build("resnet8", 7, DIGITS_SHAPE).state_dict(), "seven.pt")

    result = check(weights="seven.pt", train__epochs=0)

    assert result.exit_code == 1
    assert "linear.weight as (7, 64), the network has (10, 64)" in result.stderr


def test_weights_replaced_under_the_same_name_are_noticed(workspace):
    """DVC only tracks the name of the file, so it would keep the results of the old one."""
    model = build("resnet8", 10, DIGITS_SHAPE)
    torch.save(model.state_dict(), "w.pt")
    digest = hashlib.sha256(Path("w.pt").read_bytes()).hexdigest()
    card = UNSCALED_CARD.model_copy(update={"imported": ("w.pt", digest)})
    save_network(seed_file(Path("models/base/final"), 0), Network(model=model, card=card))
    assert check(weights="w.pt").exit_code == 0

    torch.save(build("resnet8", 10, DIGITS_SHAPE, seed=1).state_dict(), "w.pt")
    result = check(weights="w.pt")

    assert result.exit_code == 1
    assert "w.pt has changed" in result.stderr
    assert "dvc repro -f train_base" in result.stderr


def test_missing_data_without_a_network_is_refused_file_by_file(workspace, monkeypatch):
    monkeypatch.setattr(Cifar, "reachable", lambda self: False)

    lines = check(dataset="cifar10").stderr.splitlines()

    assert len(lines) == 7
    assert all("is missing" in line and "MD5" in line and "https://" in line for line in lines)


def test_missing_data_is_accepted_if_it_can_be_downloaded(workspace, monkeypatch):
    monkeypatch.setattr(Cifar, "reachable", lambda self: True)

    assert check(dataset="cifar10").exit_code == 0


def test_damaged_data_is_refused_even_if_it_can_be_downloaded(workspace, monkeypatch):
    monkeypatch.setattr(Cifar, "reachable", lambda self: True)
    damaged = Path("data/raw/cifar-10-batches-py/data_batch_3")
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"half")

    result = check(dataset="cifar10")

    assert result.exit_code == 1
    assert "data_batch_3 is damaged" in result.stderr


def test_help_has_examples():
    assert "dvc repro" in run("--help").stdout
    assert "Example:" in run("check", "--help").stdout


def test_list_has_all_methods_models_and_data_sets():
    first_words = [line.split()[0] for line in run("list").stdout.splitlines() if line]

    assert first_words == ["method", *METHODS, "model", *MODELS, "dataset", *DATASETS]


def test_list_can_be_limited_to_one_table():
    models = run("list", "models").stdout

    assert "resnet56" in models
    assert "l1_channel" not in models


def test_all_models_are_those_made_here_and_those_of_the_libraries():
    every = [line.split()[0] for line in run("list", "models", "--all").stdout.splitlines()]

    assert every == ["model", *MODELS, *LIBRARY, *PACKAGE_OF, "timm/NAME"]
    assert "torchvision/" not in run("list", "models").stdout


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ("torchvision/resnet19", "unknown model 'torchvision/resnet19'"),
        ("torchvision/vgg11", "cannot read images of 8 x 8 pixels"),
    ],
)
def test_check_names_a_library_network_that_cannot_be_had(workspace, model, problem):
    result = check(model=model)

    assert result.exit_code == 1
    assert problem in result.stderr


def test_listed_layers_are_those_that_patterns_name(workspace):
    lines = run("list", "layers").stdout.splitlines()

    assert lines[0].split() == ["layer", "of", "resnet8", "weights"]
    assert lines[1].split() == ["conv1", "16x1x3x3"]
    assert lines[2].split()[0] == "layer1.0.conv1"


def test_git_variables_of_a_hook_are_forgotten(monkeypatch):
    """Otherwise every git command, even one in a clone, would work on the hook's repository."""
    git_variables = subprocess.run(
        ["git", "rev-parse", "--local-env-vars"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert set(GIT_REPOSITORY_VARIABLES) <= set(git_variables)
    for name in GIT_REPOSITORY_VARIABLES:
        monkeypatch.setenv(name, "elsewhere")

    assert run("list", "datasets").exit_code == 0

    assert not set(GIT_REPOSITORY_VARIABLES) & os.environ.keys()


@pytest.mark.parametrize("arguments", [("list", "layers"), ("study", "list")])
def test_commands_outside_a_project_say_where_to_run(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)

    result = run(*arguments)

    assert result.exit_code == 1
    assert "Run this in the top folder" in result.stderr


def test_help_lists_every_command_once_in_a_line_that_fits():
    group = get_command(app)
    listed = [name for commands in SECTIONS.values() for name in commands]
    text = run("--help").stdout

    assert sorted(listed) == sorted(group.commands)
    assert "..." not in text.partition("Options:")[2]
    assert max(map(len, text.splitlines())) <= 80
    for name in listed:
        assert text.count(f"\n  {name} ") == 1
