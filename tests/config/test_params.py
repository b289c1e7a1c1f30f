"""params.yaml is read strictly, and every problem is one line."""

import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
from helpers.params import PROJECT, edit_params

from prunelab.config.params import Grid, load_params, parse_params, read_params, with_defaults
from prunelab.core.errors import InputError

SHIPPED = PROJECT / "params.yaml"


def edited_params(folder: Path, **changes: object) -> Path:
    """The shipped params.yaml with some keys set."""
    path = folder / "params.yaml"
    path.write_text(SHIPPED.read_text())
    edit_params(path, **changes)
    return path


def problems(path: Path) -> list[str]:
    with pytest.raises(InputError) as error:
        load_params(path)
    return error.value.problems


def test_shipped_params_are_valid_and_match_the_readme():
    params = load_params(SHIPPED)
    cells = list(params.grid.cells())

    assert len(cells) == 20
    assert sum(method.startswith("random") for method in params.grid.methods) == 2
    assert (params.method, params.ratio) not in [(method, ratio) for method, ratio, _ in cells]
    assert len(params.seeds) >= 3


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("ratio", 1.0, ["ratio", "less than 1", "1.0"]),
        ("ratio", -0.1, ["ratio", "-0.1"]),
        ("ratio", float("nan"), ["ratio", "nan"]),
        ("ratio", "0.5", ["ratio", "0.5"]),
        ("ratio", True, ["ratio"]),
        ("budget", "latency", ["budget", "native", "latency"]),
        ("seeds", [], ["seeds"]),
        ("seeds", [1, 1], ["seeds", "1", "more than once"]),
        ("seeds", [-1], ["seeds.0", "-1"]),
        ("seeds", 3, ["seeds", "3", "-S 'seeds=[3]'"]),
        ("grid__ratios", 0.8, ["grid.ratios", "0.8", "-S 'grid.ratios=[0.8]'"]),
        ("grid__ratios", [0.5, 0.50], ["grid.ratios", "0.5", "more than once"]),
        ("grid__ratios", [0.5, 1.5], ["grid.ratios.1", "1.5"]),
        ("grid__methods", [], ["grid.methods"]),
        ("evaluate__split", "train", ["evaluate.split", "'test'", "'validation'", "train"]),
        ("search__methods", [], ["search.methods", "empty"]),
        ("search__ratio", {"low": 0.9, "high": 0.3}, ["search.ratio", "0.9", "above", "0.3"]),
        ("search__ratio__high", 1.0, ["search.ratio.high", "less than 1", "1.0"]),
        ("search__learning_rate__low", 0, ["search.learning_rate.low", "greater than 0", "0"]),
        ("search__layers", ["uniform"], ["search.layers.0", "'sensitivity'", "uniform"]),
        ("search__recalibrate", [1], ["search.recalibrate.0", "too few"]),
        ("search__first_epochs", 99, ["search", "first_epochs is 99", "epochs"]),
        ("search__final_seeds", [7, 7], ["search.final_seeds", "7", "more than once"]),
        ("train__epochs", -1, ["train.epochs", "-1"]),
        ("train__epochs", 1.5, ["train.epochs", "1.5"]),
        ("train__rewind_epoch", 1000, ["train", "1000"]),
        ("train__optimizer", "sdg", ["train.optimizer", "sdg", "'sgd'", "'adam'", "'adamw'"]),
        ("train__schedule", "step", ["train", "milestones"]),
        ("train__learning_rat", 0.1, ["train.learning_rat", "unknown key", "learning_rate"]),
        ("data__normalise", {"mean": [0.5]}, ["data.normalise.std", "missing"]),
        ("data__normalise", {"mean": [0.5], "std": [0.0]}, ["data.normalise.std", "0.0"]),
        ("data__validation_fraction", 0, ["data.validation_fraction", "0"]),
        ("prune__round_to", 0, ["prune.round_to", "0"]),
        ("runtime__device", "gpu", ["runtime.device", "gpu", "'cuda'"]),
        ("runtime", None, ["runtime", "None"]),
        ("runtime__threads", 10**30, ["runtime.threads"]),
        ("runtime__processes", 0, ["runtime.processes", "1", "0"]),
        ("train__batch_size", 1, ["train.batch_size", "1"]),
        ("train__float", 3, ["train.float: unknown key", "learning_rate"]),
        ("evaluate__bootstrap_samples", 10**12, ["evaluate.bootstrap_samples"]),
        ("colour", "red", ["colour", "unknown key", "dataset"]),
    ],
)
def test_bad_value_is_one_line_with_key_value_and_valid_ones(tmp_path, key, value, words):
    (line,) = problems(edited_params(tmp_path, **{key: value}))

    assert "\n" not in line
    for word in words:
        assert word in line


def test_files_older_than_a_key_have_its_default():
    shipped = read_params(SHIPPED)
    older = deepcopy(shipped)
    for section, key in (("train", "norm"), ("finetune", "freeze_epochs"), ("data", "exif")):
        del older[section][key]

    assert parse_params(older) == parse_params(shipped)
    assert with_defaults(older) == with_defaults(shipped) == shipped


def test_all_problems_are_reported_at_once(tmp_path):
    lines = problems(edited_params(tmp_path, ratio=2, train__epochs=-1, colour="red"))

    assert len(lines) == 3


@pytest.mark.parametrize(
    "text", ["a: [1", "ratio: 0.5\nratio: 0.6", "\x00", "- 1\n- 2", "just words", ""]
)
def test_file_that_is_no_mapping_is_refused_in_lines(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)

    assert all("\n" not in line for line in problems(path))


def test_missing_file_says_where_to_run():
    assert "top folder" in problems(Path("no/params.yaml"))[0]


def test_scientific_notation_is_a_number_as_in_dvc(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(SHIPPED.read_text().replace("weight_decay: 0.0005", "weight_decay: 5e-4"))

    assert load_params(path).train.weight_decay == 0.0005


def test_cells_have_the_names_that_dvc_gives_them(tmp_path):
    ratios = [0.5, 0, 0.001, 0.00001, 0.50001]
    (tmp_path / "params.yaml").write_text(f"ratios: {ratios}")
    stage = "matrix: {m: [a_b], r: '${ratios}'}\n    cmd: echo '${key}'"
    (tmp_path / "dvc.yaml").write_text(f"stages:\n  x:\n    {stage}\n")

    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "--no-scm", "-q"], cwd=tmp_path, check=True)
    listing = subprocess.run(
        [*dvc, "stage", "list", "--name-only"], cwd=tmp_path, capture_output=True, text=True
    )

    keys = [key for *_, key in Grid(methods=["a_b"], ratios=ratios).cells()]
    assert sorted(listing.stdout.split()) == sorted(f"x@{key}" for key in keys)


def test_unknown_key_with_the_name_of_a_type_is_noticed(tmp_path):
    assert "int: unknown key" in problems(edited_params(tmp_path, int=3))[0]


def test_spec_checks_the_range_of_its_ratio():
    with pytest.raises(InputError, match="ratio"):
        load_params(SHIPPED).spec("l1_channel", 1.0)
