"""Revisions side by side: fronts and budgets by brute force, and what Git and DVC know of a small project."""

import json
import shutil
import subprocess
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from helpers.networks import DIGITS_SHAPE
from helpers.params import PROJECT, edit_params, prune_spec, runtime_params
from helpers.repository import Repository
from typer.testing import CliRunner

from prunelab.artifacts.networks import ModelCard, Network, save_network, seed_file
from prunelab.benchmark import suite as benchmark
from prunelab.cli import app
from prunelab.commands.compare import revision_latency as timing
from prunelab.config.params import Normalise, read_params
from prunelab.core.errors import InputError
from prunelab.figures import pareto_figure
from prunelab.models.catalogue import build
from prunelab.project.revisions import flatten, read_revisions
from prunelab.pruning.prune import prune
from prunelab.report import style
from prunelab.report.pareto import (
    FASTER,
    SLACK,
    best_within,
    compare,
    comparison_table,
    lacking,
    notes,
)
from prunelab.training.trainer import Untrained

DENSE = {
    "accuracy": 0.99,
    "accuracy_ci95": 0.01,
    "macs": 1000,
    "params_nonzero": 400,
    "size_compressed_bytes": 900,
}


@dataclass
class Some:
    """A revision made up."""

    name: str
    metrics: dict
    params: dict = field(
        default_factory=lambda: {"method": "l1_channel", "ratio": 0.5, "model": "resnet8"}
    )
    dense: dict = field(default_factory=lambda: dict(DENSE))
    stale: list[str] = field(default_factory=list)


def metrics(accuracy: float = 0.9, macs: int = 500, **changes: float) -> dict:
    return {
        "accuracy": accuracy, "accuracy_ci95": 0.02, "accuracy_drop": 0.99 - accuracy, "accuracy_drop_ci95": 0.03,
        "sparsity": 0.5, "params": 300, "params_nonzero": 200, "macs": macs, "macs_ratio": 1000 / macs,
        "size_compressed_bytes": 450,
    } | changes  # fmt: skip


def drawn(seed: int, count: int = 12) -> list[Some]:
    """Random rows on a coarse grid, so that equal costs and equal accuracies occur."""
    random = np.random.default_rng(seed)
    pairs = zip(
        random.integers(80, 90, count) / 100, random.integers(1, 12, count) * 80, strict=True
    )
    return [
        Some(f"r{index}", metrics(float(accuracy), int(macs)))
        for index, (accuracy, macs) in enumerate(pairs)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_what_no_other_row_dominates(seed):
    revisions = drawn(seed)
    points = np.array([[one.metrics["macs"], -one.metrics["accuracy"]] for one in revisions])
    no_worse = (points[:, None] <= points[None]).all(axis=2)
    better = (points[:, None] < points[None]).any(axis=2)
    expected = ~(no_worse & better).any(axis=0)
    assert [row["front"] for row in compare(revisions, "macs")] == expected.tolist()


@pytest.mark.parametrize("seed", range(20))
def test_the_best_of_a_budget_is_the_most_accurate_that_fits(seed):
    rows = compare(drawn(seed), "macs")
    for power in range(1, 12):
        budget = Fraction(1, 2**power)
        named = [row for row in rows if str(budget) in row["best_at"]]
        fitting = [row for row in rows if row["cost"] / 1000 <= float(budget) * SLACK]
        assert len(named) == bool(fitting)
        if fitting:
            highest = max(row["accuracy"] for row in fitting)
            assert named[0]["accuracy"] == highest
            assert named[0]["cost"] == min(
                row["cost"] for row in fitting if row["accuracy"] == highest
            )


def test_a_half_that_was_met_within_one_per_cent_is_a_half():
    met, missed = compare(
        [Some("met", metrics(macs=505)), Some("missed", metrics(0.95, macs=515))], "macs"
    )
    assert met["best_at"] == ["1/2"]
    assert missed["best_at"] == []
    assert best_within([]) == {}


def test_each_cost_has_its_own_front():
    cheap, small = (
        Some("cheap", metrics(macs=100)),
        Some("small", metrics(macs=200, params_nonzero=100)),
    )
    for cost, winner in (("macs", "cheap"), ("params_nonzero", "small")):
        assert [row["name"] for row in compare([cheap, small], cost) if row["front"]] == [winner]


def test_what_rests_on_other_data_or_another_dense_network_takes_no_part():
    first = Some("first", metrics(0.5))
    better = {
        "other data": {"dataset": "cifar10"},
        "other network": {"model": "resnet20"},
        "other training": {"train.epochs": 1},
        "other split": {"data.split_seed": 1},
    }
    others = [
        Some(name, metrics(0.9, 100), first.params | changed) for name, changed in better.items()
    ]
    ours = Some(
        "ours",
        metrics(0.6, 100),
        first.params | {"finetune.epochs": 9, "data.workers": 0, "ratio": 0.9},
    )
    rows = {row["name"]: row for row in compare([first, *others, ours], "macs")}
    for name, changed in better.items():
        assert rows[name]["not_comparable"] == list(changed)
        assert not rows[name]["front"]
        assert not rows[name]["best_at"]
        assert any(
            name in note and next(iter(changed)) in note
            for note in notes([*rows.values()], {}, "macs")
        )
    assert rows["ours"]["not_comparable"] == []
    assert rows["ours"]["front"]
    assert rows["ours"]["changed"] == {"finetune.epochs": 9, "data.workers": 0, "ratio": 0.9}
    stale = Some("stale", metrics(0.9, 50), stale=["ratio"])
    assert not compare([first, stale], "macs")[1]["front"]


@pytest.mark.parametrize(
    ("drop", "half", "zero"), [(0.01, 0.02, True), (-0.01, 0.02, True), (-0.03, 0.02, False)]
)
def test_a_drop_whose_interval_includes_zero_is_marked(drop, half, zero):
    rows = compare([Some("one", metrics(accuracy_drop=drop, accuracy_drop_ci95=half))], "macs")
    header, (line,) = comparison_table(rows)
    assert rows[0]["no_drop"] is zero
    assert line[header.index("drop")].endswith("=") is zero


def test_long_changes_are_cut_in_the_table_and_whole_in_the_rows():
    changed = {f"finetune.key{index}": index for index in range(20)}
    base = Some("base", metrics())
    rows = compare([base, Some("much", metrics(), base.params | changed)], "macs")
    assert rows[1]["changed"] == changed
    told = comparison_table(rows)[1][1][1]
    shown = told.count("=")
    assert told.endswith(f"and {20 - shown} more")
    assert 0 < shown < 20


def test_the_picture_is_the_same_to_the_byte_and_names_every_point_once(tmp_path):
    revisions = [*drawn(3), Some("twin", dict(drawn(3)[0].metrics))]
    for suffix in (".svg", ".png"):
        for name in "ab":
            figure = pareto_figure.comparison(compare(revisions, "macs"), "macs", "title")
            style.save_as(figure, tmp_path / f"{name}{suffix}")
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    words = [name for text in figure.axes[0].texts for name in text.get_text().split(", ")]
    assert sorted(words) == sorted(one.name for one in revisions)


def test_sections_become_dotted_keys():
    assert flatten({"a": {"b": {"c": 1}}, "d": [1, {"e": 2}], "f": {}}) == {
        "a.b.c": 1,
        "d": [1, {"e": 2}],
        "f": {},
    }


class Project(Repository):
    """A Git repository with nothing in it but parameters and numbers."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        (folder / "params.yaml").write_text((PROJECT / "params.yaml").read_text())

    def measure(self, accuracy: float, macs: int, **changes: object) -> None:
        edit_params(self.folder / "params.yaml", **changes)
        (self.folder / "metrics").mkdir(exist_ok=True)
        (self.folder / "metrics/focus.json").write_text(json.dumps(metrics(accuracy, macs)))
        (self.folder / "metrics/base.json").write_text(json.dumps(DENSE))

    def experiment(self, name: str, accuracy: float, macs: int, **changes: object) -> None:
        """What `dvc exp run` leaves behind: a commit on this one that only refs/exps leads to."""
        head = self.git("rev-parse", "HEAD")
        self.measure(accuracy, macs, **changes)
        made = self.commit(name)
        self.git("reset", "-q", "--hard", head)
        self.git("update-ref", f"refs/exps/{head[:2]}/{head[2:]}/{name}", made)


@pytest.fixture
def project(tmp_path, monkeypatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


def test_without_names_it_is_the_workspace_the_commit_and_its_experiments(project):
    project.measure(0.80, 600)
    project.commit("first")
    project.experiment("older-exp", 0.70, 700, ratio=0.1)
    project.measure(0.85, 500, ratio=0.5)
    project.commit("second")
    project.experiment("mellow-lute", 0.75, 200, ratio=0.8)
    project.experiment("keen-rook", 0.88, 400, method="l2_channel", finetune__epochs=3)
    project.measure(0.95, 450, ratio=0.55)
    found, without = read_revisions(project.folder, [])
    assert without == {}
    assert {one.name: one.metrics["accuracy"] for one in found} == {
        "workspace": 0.95, "HEAD": 0.85, "mellow-lute": 0.75, "keen-rook": 0.88,
    }  # fmt: skip
    assert [one.name for one in found[:2]] == ["workspace", "HEAD"]
    assert {one.name: one.params["ratio"] for one in found}["mellow-lute"] == 0.8
    named, _ = read_revisions(project.folder, ["HEAD~1", "older-exp", "main", "keen-rook"])
    assert [one.metrics["macs"] for one in named] == [600, 700, 500, 400]
    assert named[0].params == flatten(read_params(PROJECT / "params.yaml"))


def test_the_newest_experiment_of_a_name_is_meant_and_one_of_this_commit_first(project):
    project.measure(0.80, 600)
    project.commit("first")
    project.experiment("again", 0.1, 100)
    project.git("commit", "-q", "--allow-empty", "-m", "second")
    project.experiment("again", 0.2, 100)
    project.git("checkout", "-q", "--detach", "HEAD~1")
    (found,), _ = read_revisions(project.folder, ["again"])
    assert found.metrics["accuracy"] == 0.1


def test_unknown_names_are_refused_with_close_ones(project):
    project.measure(0.80, 600)
    project.commit("first")
    project.experiment("mellow-lute", 0.75, 200)
    with pytest.raises(InputError) as refused:
        read_revisions(project.folder, ["HEAD", "mellow-flute", "mian", "--help"])
    lute, main, odd = refused.value.problems
    assert "'mellow-flute' (did you mean 'mellow-lute'" in lute
    assert "'main'" in main
    assert "unknown revision '--help'" in odd


def test_revisions_without_numbers_are_told_at_the_end_and_are_not_fatal(project):
    project.commit("nothing yet")
    project.measure(0.80, 600)
    project.commit("measured")
    (project.folder / "metrics/focus.json").write_text("{")
    project.commit("damaged")
    (project.folder / "metrics/focus.json").write_text(json.dumps({"accuracy": 0.5}))
    project.commit("of old")
    result = CliRunner().invoke(app, ["compare", "HEAD~3", "HEAD~2", "HEAD~1", "HEAD"])
    assert result.exit_code == 0, result.stderr
    body, told = result.stdout.split("\n\n")
    assert [line.split()[0] for line in body.splitlines()[2:]] == ["HEAD~2"]
    for name, reason in {
        "HEAD~3": "metrics/focus.json",
        "HEAD~1": "line 1",
        "HEAD": "lack accuracy_ci95",
    }.items():
        assert any(
            line.startswith(f"- {name} is left out") and reason in line
            for line in told.splitlines()
        )
    nothing = CliRunner().invoke(app, ["compare", "HEAD~3"])
    assert nothing.exit_code == 1
    assert "HEAD~3 has nothing to compare" in nothing.stderr


@pytest.mark.parametrize("bad", [None, "high", float("nan"), [1]])
def test_what_is_no_number_is_lacking(bad):
    whole = Some("whole", metrics())
    assert lacking(whole) == []
    assert lacking(Some("odd", metrics() | {"accuracy": bad})) == ["accuracy"]
    assert lacking(Some("odd", metrics(), dense=DENSE | {"accuracy": bad})) == ["accuracy"]


def test_a_row_without_a_ratio_is_a_row():
    rows = compare([Some("old", metrics(), params={"method": "l1_channel"})], "macs")
    ((_, _, _, ratio, *_),) = comparison_table(rows)[1]
    assert ratio == "None"


def test_numbers_of_other_parameters_are_told(project):
    ran = "stages:\n  prune_focus:\n    params:\n      params.yaml:\n        prune:\n          floor: 0.1\n"
    ran += "  evaluate_focus:\n    params:\n      params.yaml:\n        ratio: 0.6\n"
    ran += "  plot:\n    params:\n      params.yaml:\n        method: another\n"
    (project.folder / "dvc.lock").write_text(ran)
    project.measure(0.8, 600)
    project.commit("measured")
    edit_params(project.folder / "params.yaml", ratio=0.7, prune__floor=0.2)
    found, _ = read_revisions(project.folder, ["HEAD", "workspace"])
    assert [one.stale for one in found] == [[], ["prune.floor", "ratio"]]


def test_the_command_prints_and_draws(project):
    project.measure(0.80, 600)
    project.commit("first")
    project.experiment("mellow-lute", 0.75, 200, ratio=0.8, finetune__epochs=3)
    text = CliRunner().invoke(app, ["compare", "--plot", "plots/compare.svg"]).stdout
    assert "finetune.epochs=3" in text
    assert "best at 1/2, 1/4" in next(
        line for line in text.splitlines() if line.startswith("mellow-lute")
    )
    assert "mellow-lute" in (project.folder / "plots/compare.svg").read_text()
    markdown = CliRunner().invoke(app, ["compare", "--format", "md"]).stdout.splitlines()
    assert len({line.count("|") for line in markdown if line.startswith("|")}) == 1
    content = json.loads(
        CliRunner().invoke(app, ["compare", "--format", "json", "--cost", "params_nonzero"]).stdout
    )
    assert content["rows"][2]["changed"] == {"finetune.epochs": 3, "ratio": 0.8}
    assert content["rows"][2]["share"] == 0.5
    refused = CliRunner().invoke(app, ["compare", "--plot", "compare.pdf"])
    assert refused.exit_code == 1
    assert ".svg, .png" in refused.stderr


def save_networks(root: Path, ratio: float) -> None:
    """A dense network, and one with so much of its channels gone, where the pipeline keeps them."""
    model = build("resnet8", 10, DIGITS_SHAPE)
    card = ModelCard(
        model="resnet8", classes=10, input_shape=DIGITS_SHAPE, normalise=Normalise(mean=[0.0], std=[1.0]), seed=0,
        imported=None,
    )  # fmt: skip
    save_network(seed_file(root / timing.BASE, 0), Network(model=model, card=card))
    prune(
        model,
        "resnet8",
        prune_spec("l1_channel", ratio),
        shape=DIGITS_SHAPE,
        seed=0,
        trainer=Untrained(),
    )
    save_network(seed_file(root / timing.FOCUS, 0), Network(model=model, card=card))


def test_networks_of_one_dense_network_take_turns_and_missing_ones_are_told(tmp_path, monkeypatch):
    seeds = {"seeds": [0], "method": "l1_channel", "ratio": 0.5}
    some = [Some(name, metrics(), seeds) for name in ("thin", "gone", "same")]
    for name, ratio in (("thin", 0.8), ("same", 0.0)):
        save_networks(tmp_path / name, ratio)
    monkeypatch.setattr(
        timing, "fetch_from", lambda root: lambda one, path, folder: root / one.name / path
    )
    turns = []
    monkeypatch.setattr(
        benchmark,
        "time_interleaved",
        lambda arms, timed, **how: turns.append(list(arms)) or pretended(arms),
    )
    timed = timing.time_revisions(tmp_path, some, runtime_params(), 2)
    assert turns == [["", "thin", "same"]]
    assert timed.faster["thin"]["faster"] == pytest.approx(2)
    assert list(timed.without) == ["gone"]
    assert str(timing.BASE) in timed.without["gone"]
    rows = compare(some, "macs")
    rows[0] |= timed.faster["thin"]
    header, lines = comparison_table(rows)
    assert [line[header.index(FASTER)] for line in lines] == [timed.faster["thin"]["told"], "", ""]


def pretended(arms) -> dict[str, np.ndarray]:
    """Each arm is called, and said to take half as long as the one before."""
    assert all(arm().shape == (2, 10) for arm in arms.values())
    return {name: np.full((3, 4), 0.5**index) for index, name in enumerate(arms)}


@pytest.mark.slow
def test_networks_come_out_of_dvcs_cache(project):
    subprocess.run(["dvc", "init", "-q"], cwd=project.folder, check=True, capture_output=True)
    for ratio, macs in ((0.5, 500), (0.8, 100)):
        save_networks(project.folder, ratio)
        subprocess.run(
            ["dvc", "add", "-q", "models"], cwd=project.folder, check=True, capture_output=True
        )
        project.measure(0.8, macs)
        project.commit(f"{ratio}")
    shutil.rmtree(project.folder / "models")
    result = CliRunner().invoke(
        app, ["compare", "HEAD~1", "HEAD", "workspace", "--latency", "64", "--format", "json"]
    )
    half, fifth, workspace = json.loads(result.stdout)["rows"]
    assert all(row["faster_low"] <= row["faster"] <= row["faster_high"] for row in (half, fifth))
    assert "told" not in workspace
    shutil.rmtree(project.folder / ".dvc/cache")
    told = CliRunner().invoke(app, ["compare", "HEAD", "--latency", "64"]).stdout
    assert "HEAD was not measured" in told
    assert "neither in DVC's cache nor in a remote" in told


@pytest.mark.slow
def test_an_experiment_of_dvc_itself_is_found(project):
    project.git("config", "user.name", "Test")
    project.git("config", "user.email", "test@example.com")
    (project.folder / "dvc.yaml").write_text(
        "stages:\n  evaluate_focus:\n    cmd: cp numbers.json metrics/focus.json\n    deps: [numbers.json]\n"
        "    params: [ratio]\n    metrics: [metrics/focus.json: {cache: false}]\n"
    )
    project.measure(0.8, 600)
    (project.folder / "numbers.json").write_text(json.dumps(metrics(0.8, 600)))
    for command in (["dvc", "init", "-q"], ["dvc", "repro", "-q"]):
        subprocess.run(command, cwd=project.folder, check=True, capture_output=True)
    project.commit("first")
    ran = ["dvc", "exp", "run", "-q", "--temp", "-S", "ratio=0.9", "--name", "calm-hen"]
    subprocess.run(ran, cwd=project.folder, check=True, capture_output=True)
    found, without = read_revisions(project.folder, [])
    assert without == {}
    assert [(one.name, one.params["ratio"]) for one in found] == [
        ("workspace", 0.6),
        ("HEAD", 0.6),
        ("calm-hen", 0.9),
    ]
    assert all(one.stale == [] for one in found)
