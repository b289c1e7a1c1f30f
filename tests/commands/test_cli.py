"""`prunelab check` finds everything wrong before any work starts."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest
import torch
from helpers.networks import DIGITS_SHAPE
from helpers.params import PROJECT, edit_params
from typer.testing import CliRunner

from prunelab.artifacts.networks import ModelCard, Network, save_network, seed_file
from prunelab.cli import app
from prunelab.commands.common import GIT_REPOSITORY_VARIABLES
from prunelab.config.params import Normalise
from prunelab.datasets.datasets import DATASETS, Cifar
from prunelab.models.catalogue import MODELS, build
from prunelab.pruning.methods import METHODS


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((PROJECT / "params.yaml").read_text())
    return tmp_path


def check(**changes: object):
    """Run `prunelab check` with some keys of the shipped parameters changed."""
    edit_params(Path("params.yaml"), **changes)
    return CliRunner().invoke(app, ["check"])


def test_the_shipped_parameters_are_in_order(workspace):
    result = check()
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("changes", "named"),
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
def test_each_problem_is_one_line_on_stderr_and_the_exit_status_says_so(workspace, changes, named):
    result = check(**changes)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    for part in named:
        assert part in line


def test_problems_of_every_kind_are_reported_together(workspace):
    lines = check(
        ratio=2, model="resnet21", grid__methods=["magic", "magic"], colour="red"
    ).stderr.splitlines()
    assert len(lines) == 6  # ratio, model, magic twice in one list, magic unknown (twice), colour
    assert check(method="x", dataset="y").stderr.count("\n") > 6


def test_files_are_looked_into_even_if_a_value_is_wrong(workspace):
    normalise = {"mean": [0.5] * 2, "std": [0.5] * 2}
    lines = check(ratio=1.5, weights="nofile.pt", data__normalise=normalise).stderr.splitlines()
    assert len(lines) == 3
    assert {"ratio", "weights", "data.normalise"} <= {
        word.strip(":") for line in lines for word in line.split()
    }


def test_weights_that_do_not_fit_the_classes_are_refused(workspace):
    torch.save(build("resnet8", 7, DIGITS_SHAPE).state_dict(), "seven.pt")
    result = check(weights="seven.pt")
    assert result.exit_code == 1
    assert "linear.weight as (7, 64), the network has (10, 64)" in result.stderr


def test_weights_replaced_under_the_same_name_are_noticed(workspace):
    """DVC tracks the file's name only, so results would silently be those of the old file."""
    model = build("resnet8", 10, DIGITS_SHAPE)
    torch.save(model.state_dict(), "w.pt")
    digest = hashlib.sha256(Path("w.pt").read_bytes()).hexdigest()
    card = ModelCard(
        model="resnet8", classes=10, input_shape=DIGITS_SHAPE, normalise=Normalise(mean=[0], std=[1]), seed=0,
        imported=("w.pt", digest),
    )  # fmt: skip
    save_network(seed_file(Path("models/base/final"), 0), Network(model=model, card=card))
    assert check(weights="w.pt").exit_code == 0
    torch.save(build("resnet8", 10, DIGITS_SHAPE, seed=1).state_dict(), "w.pt")
    result = check(weights="w.pt")
    assert result.exit_code == 1
    assert "w.pt has changed" in result.stderr
    assert "dvc repro -f train_base" in result.stderr


def test_data_that_is_neither_there_nor_to_be_had_is_refused_file_by_file(workspace, monkeypatch):
    monkeypatch.setattr(Cifar, "reachable", lambda self: False)
    lines = check(dataset="cifar10").stderr.splitlines()
    assert len(lines) == 7
    assert all("is missing" in line and "MD5" in line and "https://" in line for line in lines)
    monkeypatch.setattr(Cifar, "reachable", lambda self: True)
    assert check(dataset="cifar10").exit_code == 0  # prepare will download it


def test_damaged_data_is_refused_even_where_it_could_be_downloaded(workspace, monkeypatch):
    monkeypatch.setattr(Cifar, "reachable", lambda self: True)
    damaged = Path("data/raw/cifar-10-batches-py/data_batch_3")
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"half")
    result = check(dataset="cifar10")
    assert result.exit_code == 1
    assert "data_batch_3 is damaged" in result.stderr


def test_help_and_list_tell_what_there_is():
    assert "dvc repro" in CliRunner().invoke(app, ["--help"]).stdout
    assert "Example:" in CliRunner().invoke(app, ["check", "--help"]).stdout
    listed = [
        line.split()[0] for line in CliRunner().invoke(app, ["list"]).stdout.splitlines() if line
    ]
    assert listed == ["method", *METHODS, "model", *MODELS, "dataset", *DATASETS]
    only = CliRunner().invoke(app, ["list", "models"]).stdout
    assert "resnet56" in only
    assert "l1_channel" not in only


def test_git_is_not_told_which_repository_it_works_in(monkeypatch):
    """As hooks and aliases tell it: then every git command, in a clone too, would work on that one."""
    told = subprocess.run(
        ["git", "rev-parse", "--local-env-vars"], capture_output=True, text=True, check=True
    )
    assert set(GIT_REPOSITORY_VARIABLES) <= set(told.stdout.split())
    for name in GIT_REPOSITORY_VARIABLES:
        monkeypatch.setenv(name, "elsewhere")
    assert CliRunner().invoke(app, ["list", "datasets"]).exit_code == 0
    assert not set(GIT_REPOSITORY_VARIABLES) & os.environ.keys()


def test_layers_are_those_that_patterns_name(workspace):
    listed = CliRunner().invoke(app, ["list", "layers"]).stdout.splitlines()
    assert listed[0].split() == ["layer", "of", "resnet8", "weights"]
    assert [line.split()[0] for line in listed[1:3]] == ["conv1", "layer1.0.conv1"]
    assert listed[1].split()[1] == "16x1x3x3"
    Path("params.yaml").unlink()
    refused = CliRunner().invoke(app, ["list", "layers"])
    assert refused.exit_code == 1
    assert "Run this in the top folder" in refused.stderr


def test_studies_are_those_of_the_folder_one_stands_in(workspace):
    refused = CliRunner().invoke(app, ["study", "list"])
    assert refused.exit_code == 1
    assert "Run this in the top folder" in refused.stderr
