import subprocess
import sys
from pathlib import Path

import pytest
from helpers.params import PROJECT, edit_params

from prunelab.config.params import Grid, load_params
from prunelab.core.errors import InputError


def edited(tmp_path: Path, **changes: object) -> Path:
    """The shipped params.yaml with some keys set."""
    path = tmp_path / "params.yaml"
    path.write_text((PROJECT / "params.yaml").read_text())
    edit_params(path, **changes)
    return path


def problems(path: Path) -> list[str]:
    with pytest.raises(InputError) as refused:
        load_params(path)
    return refused.value.problems


def test_shipped_params_are_valid_and_fulfil_the_promises_of_the_readme():
    params = load_params(PROJECT / "params.yaml")
    cells = list(params.grid.cells())
    assert len(cells) == 12
    assert sum(method.startswith("random") for method in params.grid.methods) == 2
    assert (params.method, params.ratio) not in [(method, ratio) for method, ratio, _ in cells]
    assert len(params.seeds) >= 3


@pytest.mark.parametrize(
    ("place", "value", "named"),
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
def test_a_bad_value_is_refused_by_one_line_that_names_key_value_and_what_is_valid(
    tmp_path, place, value, named
):
    (line,) = problems(edited(tmp_path, **{place: value}))
    assert "\n" not in line
    for part in named:
        assert part in line


def test_all_problems_are_reported_at_once(tmp_path):
    lines = problems(edited(tmp_path, ratio=2, train__epochs=-1, colour="red"))
    assert len(lines) == 3


@pytest.mark.parametrize(
    "text", ["a: [1", "ratio: 0.5\nratio: 0.6", "\x00", "- 1\n- 2", "just words", ""]
)
def test_what_is_not_a_mapping_of_keys_is_refused_without_a_traceback(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    assert all("\n" not in line for line in problems(path))


def test_a_missing_file_says_where_to_run():
    assert "top folder" in problems(Path("no/params.yaml"))[0]


def test_scientific_notation_is_a_number_as_it_is_to_dvc(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(
        (PROJECT / "params.yaml").read_text().replace("weight_decay: 0.0005", "weight_decay: 5e-4")
    )
    assert load_params(path).train.weight_decay == 0.0005


def test_cells_are_named_by_dvc_itself_as_we_name_them(tmp_path):
    ratios = [0.5, 0, 0.001, 0.00001, 0.50001]
    (tmp_path / "params.yaml").write_text(f"ratios: {ratios}")
    stage = "matrix: {m: [a_b], r: '${ratios}'}\n    cmd: echo '${key}'"
    (tmp_path / "dvc.yaml").write_text(f"stages:\n  x:\n    {stage}\n")
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "--no-scm", "-q"], cwd=tmp_path, check=True)
    listed = subprocess.run(
        [*dvc, "stage", "list", "--name-only"], cwd=tmp_path, capture_output=True, text=True
    )
    ours = [f"x@{key}" for *_, key in Grid(methods=["a_b"], ratios=ratios).cells()]
    assert sorted(listed.stdout.split()) == sorted(ours)


def test_an_unknown_key_is_noticed_whatever_its_name(tmp_path):
    assert "int: unknown key" in problems(edited(tmp_path, int=3))[0]


def test_a_spec_has_the_only_range_check():
    with pytest.raises(InputError, match="ratio"):
        load_params(PROJECT / "params.yaml").spec("l1_channel", 1.0)
