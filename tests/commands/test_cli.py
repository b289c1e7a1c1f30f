"""`prunelab check` and `prunelab list`: what they print, and their exit status."""

import hashlib
import inspect
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import get_args

import pytest
import torch
from helpers.networks import DIGITS_SHAPE, UNSCALED_CARD
from helpers.params import PROJECT, edit_params
from helpers.plugins import write_plugins
from typer.main import get_command
from typer.testing import CliRunner

from prunelab.artifacts.networks import Network, save_network, seed_file
from prunelab.cli import SECTIONS, app
from prunelab.commands import list_notes
from prunelab.commands.common import GIT_REPOSITORY_VARIABLES
from prunelab.commands.explain import known_names
from prunelab.config.params import Budget
from prunelab.config.restart import Restart
from prunelab.data.augmentations import AUGMENTATIONS
from prunelab.datasets.datasets import DATASETS, Cifar
from prunelab.evaluation.metric_table import METRICS
from prunelab.models.catalogue import LIBRARY, MODELS
from prunelab.models.networks import build
from prunelab.models.weights_packages import PACKAGE_OF
from prunelab.pruning.criteria import CRITERIA
from prunelab.pruning.criteria.calibration import CalibrationData
from prunelab.pruning.methods import KINDS, METHODS
from prunelab.pruning.schedules import SCHEDULES
from prunelab.pruning.structured.groups import SCOPES
from prunelab.pruning.unstructured.granularity import GRANULARITIES
from prunelab.pruning.unstructured.select import Scope
from prunelab.training.lr_schedules import LR_SCHEDULES


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
            ["method: unknown method 'l1_chanel'", "did you mean 'l1_channel'", "list methods"],
        ),
        ({"model": "resnet21"}, ["model: unknown model 'resnet21'", "`prunelab list models`"]),
        ({"dataset": "mnist"}, ["dataset: unknown dataset 'mnist'", "digits, cifar10, cifar100"]),
        ({"grid__methods": ["l1_channel", "magic"]}, ["grid.methods: unknown method 'magic'"]),
        ({"train__schedule": "cosin"}, ["train.schedule: unknown lr_schedule", "'cosine'"]),
        ({"data__augment": ["erase", "blur"]}, ["data.augment: unknown augmentation 'blur'"]),
        ({"evaluate__metrics": ["kappa"]}, ["evaluate.metrics: unknown metric", "cohen_kappa"]),
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


def every_command() -> list[tuple[str, ...]]:
    group = get_command(app)
    names = [(name,) for name in group.commands]
    return [*names, *(("study", name) for name in group.commands["study"].commands)]


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("names", every_command(), ids=" ".join)
def test_help_fits_the_terminal_and_has_an_example_whose_lines_are_whole(names, width):
    text = CliRunner().invoke(app, [*names, "--help"], terminal_width=width).stdout

    assert max(map(len, text.splitlines())) <= width
    assert not re.search(r"\w\.\.\.$", text.replace("[ARGS]...", ""), re.MULTILINE)
    _, _, examples = text.partition("  Example:\n")
    lines = examples.partition("\n\n")[0].splitlines()
    command = get_command(app)
    assert lines
    for line in lines:
        words = line.partition("#")[0].split()
        assert "prunelab" in words
        assert words[words.index("prunelab") + 1] == names[0]
    for name in names:
        command = command.commands[name]
    known = {option for param in command.params for option in param.opts}
    options = {word for line in lines for word in line.split("&&")[0].split() if word[:2] == "--"}
    assert options <= known | {"--quick"}


def test_list_has_every_name_within_a_screen():
    text = run("list").stdout
    lines = text.splitlines()

    words = re.findall(r"[\w/]+", text)
    for table in (METHODS, MODELS, DATASETS, CRITERIA, AUGMENTATIONS, METRICS, LR_SCHEDULES):
        for name in table:
            assert name in words, name
    assert len(lines) < 85
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("kind", ["methods", "criteria", "datasets", "metrics", "models"])
def test_lists_fit_100_columns(kind):
    lines = run("list", kind).stdout.splitlines()

    assert len(lines) > 2
    assert max(map(len, lines)) <= 100


def test_methods_are_listed_family_by_family_with_their_parts():
    lines = [line for line in run("list", "methods").stdout.splitlines() if line and line[0] != " "]
    families = [line.partition(":")[0] for line in lines if ": " in line]
    rows = [line.split() for line in lines[1:] if ": " not in line]

    assert families == list(list_notes.FAMILIES)
    assert sorted(row[0] for row in rows) == sorted(METHODS)
    for name, criterion, granularity, *_ in rows:
        assert (criterion, granularity) == (METHODS[name].criterion, METHODS[name].granularity)


def test_every_part_of_a_method_has_half_a_line():
    parts = list_notes.CRITERIA.keys(), list_notes.SCHEDULES.keys()

    assert parts == (CRITERIA.own.keys(), SCHEDULES.own.keys())
    assert list_notes.GRANULARITIES.keys() == {*GRANULARITIES, *KINDS}
    assert list_notes.SCOPES.keys() == {*map(str, Scope), *SCOPES}
    assert list_notes.RESTARTS.keys() == {restart.value for restart in Restart} - {"none"}
    assert list_notes.BUDGETS.keys() == set(get_args(Budget))


def test_methods_that_need_gradients_are_those_whose_criterion_differentiates_the_loss():
    calls = []

    def loss(logits, labels):
        calls.append(logits.requires_grad)
        return torch.nn.functional.cross_entropy(logits, labels)

    batch = torch.randn(4, *DIGITS_SHAPE), torch.arange(4)
    found = set()
    for name, criterion in CRITERIA.own.items():
        calls.clear()
        generator = torch.Generator().manual_seed(0)
        data = CalibrationData(generator, lambda: [batch], loss)
        criterion(build("resnet8", 10, DIGITS_SHAPE), data)
        if calls:
            found.add(name)

    assert found == list_notes.GRADIENTS


@pytest.mark.parametrize("kind", ["criteria", "augmentations", "metrics", "lr_schedules"])
def test_functions_are_listed_with_what_they_do(kind):
    lines = [line for line in run("list", kind).stdout.splitlines()[1:] if line[0] != " "]
    tables = {
        "criteria": CRITERIA,
        "augmentations": AUGMENTATIONS,
        "metrics": METRICS,
        "lr_schedules": LR_SCHEDULES,
    }

    assert [line.split()[0] for line in lines] == list(tables[kind])
    assert all(len(line.split()) > 3 for line in lines)


def test_methods_that_fit_are_those_of_the_network_in_params_yaml(workspace):
    text = run("list", "methods", "--fits").stdout
    fitting, _, others = text.partition("These do not fit:")

    assert "l1_channel " in fitting
    assert "l1_head" not in fitting
    assert "resnet8 has no heads to remove: random_head, l1_head, taylor_head" in others
    names = {line.split()[0] for line in fitting.splitlines() if line and ": " not in line}
    assert names | set(re.findall(r"\w+_(?:head|hidden)\b", others)) == {*METHODS, "method"}


def test_only_methods_can_be_asked_whether_they_fit(workspace):
    result = run("list", "models", "--fits")

    assert result.exit_code == 1
    assert "--fits is about methods, not models" in result.stderr


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_explained_by_its_parts_and_its_criterion_s_docstring(name):
    text = run("explain", name).stdout

    method = METHODS[name]
    for part in ("criterion", "granularity", "scope", "schedule", "restart"):
        assert f"  {part} {getattr(method, part)}" in text
    if not METHODS.origin(name):
        formula = inspect.getdoc(CRITERIA[method.criterion])
        assert textwrap.indent(formula, "  ") in text
    assert ("with labels, and gradients" in text) == (method.criterion in list_notes.GRADIENTS)
    assert ("data: none" in text) != method.needs_data


@pytest.mark.parametrize(
    "name",
    [
        *(*CRITERIA, *MODELS, *DATASETS, *AUGMENTATIONS, *METRICS, *LR_SCHEDULES),
        *(*SCHEDULES, *SCOPES, *list_notes.BUDGETS, *list_notes.GRANULARITIES),
        "torchvision/resnet18",
    ],
)
def test_every_other_name_is_explained_too(name):
    result = run("explain", name)

    assert result.exit_code == 0, result.stderr
    heading, _, *text = result.stdout.splitlines()
    assert heading.startswith(f"{name} (")
    assert len(" ".join(text)) > 20


def test_a_name_that_nothing_has_gets_the_nearest_three(workspace):
    (line,) = run("explain", "lamp_chanel").stderr.splitlines()

    assert line.startswith("nothing is called 'lamp_chanel' (did you mean 'lamp_channel', ")
    assert line.count("'") == 2 + 3 * 2


def test_names_of_every_kind_may_be_the_nearest_those_of_plugins_included(project):
    write_plugins(
        project,
        mine=(
            "from prunelab.pruning.criteria import CRITERIA\n"
            "@CRITERIA.register('largest')\n"
            "def largest(model, calibration):\n"
            "    return {}\n"
        ),
    )

    names = set(known_names())

    assert "largest" in names
    for table in (METHODS, MODELS, CRITERIA, SCHEDULES, DATASETS, AUGMENTATIONS, METRICS):
        assert names >= set(table)


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


def test_choices_that_do_not_exist_are_told_with_those_that_do():
    result = run("list", "networks")

    assert result.exit_code == 2
    assert "Invalid value for 'KIND': 'networks' is not one of 'methods'" in result.stderr
    assert result.stderr.rstrip().endswith("Did you mean 'metrics', 'methods' or 'layers'?")


def test_of_few_choices_only_the_nearest_is_named():
    result = run("allocate", "--granularity", "chanel")

    assert result.exit_code == 2
    assert result.stderr.rstrip().endswith("Did you mean 'channel'?")


def test_help_names_the_words_that_list_takes():
    purpose = SECTIONS["Use them"]["list"]

    assert {"methods", "models", "datasets", "layers"} <= set(re.findall(r"\w+", purpose))


ENDLESS = """
import sys, typer
from prunelab.commands.common import print_line, reporting_errors

def command():
    with reporting_errors():
        while True:
            print_line("a line")

def other_pipe():
    with reporting_errors():
        raise BrokenPipeError(32, "the worker is gone")

typer.run({"stdout": command, "worker": other_pipe}[sys.argv.pop()])
"""


def test_a_reader_that_leaves_ends_a_command_without_a_word():
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, "stdout"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    process.stdout = None  # otherwise it would be read again
    _, message = process.communicate(timeout=300)

    assert message == b""
    assert process.returncode == 141


PLUS_MINUS = """
import typer
from prunelab.commands.common import start

app = typer.Typer()
app.callback()(start)

@app.command()
def new():
    print("1 \u00b1 2")

app(["new"])
"""


def test_a_terminal_without_a_character_shows_a_question_mark():
    for encoding, expected in (("utf-8", "1 ± 2\n"), ("latin-1", "1 ± 2\n"), ("ascii", "1 ? 2\n")):
        process = subprocess.run(
            [sys.executable, "-c", PLUS_MINUS],
            env={**os.environ, "PYTHONIOENCODING": encoding},
            capture_output=True,
        )
        assert (process.stdout.decode(encoding), process.stderr) == (expected, b"")


def test_another_broken_pipe_is_told():
    process = subprocess.run([sys.executable, "-c", ENDLESS, "worker"], capture_output=True)

    assert process.returncode == 1
    assert b"the worker is gone" in process.stderr


def test_help_lists_every_command_once_in_a_line_that_fits():
    group = get_command(app)
    listed = [name for commands in SECTIONS.values() for name in commands]
    text = run("--help").stdout

    assert sorted(listed) == sorted(group.commands)
    assert "..." not in text.partition("Options:")[2]
    assert max(map(len, text.splitlines())) <= 80
    for name in listed:
        assert text.count(f"\n  {name} ") == 1
