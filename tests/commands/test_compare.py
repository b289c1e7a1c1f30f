"""Revisions side by side: fronts and budgets by brute force, and real revisions of a project."""

import json
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from helpers.networks import DIGITS_SHAPE, UNSCALED_CARD
from helpers.params import PROJECT, edit_params, prune_spec, runtime_params
from helpers.repository import Repository
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from prunelab.artifacts.networks import Network, save_network, seed_file
from prunelab.benchmarking import suite
from prunelab.cli import app
from prunelab.commands.compare import revision_latency
from prunelab.commands.compare.compare import document
from prunelab.config.params import read_params
from prunelab.core.errors import InputError, one_line
from prunelab.core.mappings import flatten
from prunelab.core.metrics_files import split_metrics
from prunelab.figures import pareto_figure
from prunelab.figures.save import save_as
from prunelab.models.networks import build
from prunelab.project.paths import BASE, FOCUS
from prunelab.project.revisions import read_revisions
from prunelab.pruning.methods import METHODS
from prunelab.pruning.prune import prune
from prunelab.report.pareto import (
    BUDGET_SLACK,
    FASTER,
    best_within,
    compare,
    comparison_table,
    in_order,
    lacking,
    notes,
)
from prunelab.report.text_table import narrow_table

DENSE = {
    "accuracy": 0.99,
    "accuracy_ci95": 0.01,
    "macs": 1000,
    "params_nonzero": 400,
    "size_compressed_bytes": 900,
}


@dataclass
class FakeRevision:
    """A revision with made-up numbers."""

    name: str
    metrics: dict
    params: dict = field(
        default_factory=lambda: {"method": "l1_channel", "ratio": 0.5, "model": "resnet8"}
    )
    dense: dict = field(default_factory=lambda: dict(DENSE))
    stale: list[str] = field(default_factory=list)


def metrics(accuracy: float = 0.9, macs: int = 500, **changes: float) -> dict:
    return {
        "accuracy": accuracy,
        "accuracy_ci95": 0.02,
        "accuracy_drop": 0.99 - accuracy,
        "accuracy_drop_ci95": 0.03,
        "sparsity": 0.5,
        "params": 300,
        "params_nonzero": 200,
        "macs": macs,
        "macs_ratio": 1000 / macs,
        "size_compressed_bytes": 450,
        **changes,
    }


def random_revisions(seed: int, count: int = 12) -> list[FakeRevision]:
    """Random revisions on a coarse grid, so that equal costs and equal accuracies occur."""
    random = np.random.default_rng(seed)
    accuracies = random.integers(80, 90, count) / 100
    macs = random.integers(1, 12, count) * 80
    return [
        FakeRevision(f"r{index}", metrics(float(accuracies[index]), int(macs[index])))
        for index in range(count)
    ]


# --- fronts and budgets ---


@pytest.mark.parametrize("seed", range(20))
def test_the_front_consists_of_rows_that_no_other_row_dominates(seed):
    revisions = random_revisions(seed)
    points = np.array(
        [[revision.metrics["macs"], -revision.metrics["accuracy"]] for revision in revisions]
    )
    no_worse = (points[:, None] <= points[None]).all(axis=2)
    better = (points[:, None] < points[None]).any(axis=2)
    expected = ~(no_worse & better).any(axis=0)

    rows = compare(revisions, "macs")

    assert [row["front"] for row in rows] == expected.tolist()


@pytest.mark.parametrize("seed", range(20))
def test_the_best_row_of_a_budget_is_the_most_accurate_that_fits(seed):
    rows = compare(random_revisions(seed), "macs")

    for power in range(1, 12):
        budget = Fraction(1, 2**power)
        best = [row for row in rows if str(budget) in row["best_at"]]
        fitting = [row for row in rows if row["cost"] / 1000 <= float(budget) * BUDGET_SLACK]
        assert len(best) == bool(fitting)
        if fitting:
            highest = max(row["accuracy"] for row in fitting)
            lowest_cost = min(row["cost"] for row in fitting if row["accuracy"] == highest)
            assert best[0]["accuracy"] == highest
            assert best[0]["cost"] == lowest_cost


def test_a_budget_is_met_within_one_per_cent():
    met, missed = compare(
        [
            FakeRevision("met", metrics(macs=505)),
            FakeRevision("missed", metrics(0.95, macs=515)),
        ],
        "macs",
    )

    assert met["best_at"] == ["1/2"]
    assert missed["best_at"] == []
    assert best_within([]) == {}


@pytest.mark.parametrize(
    ("cost", "expected"), [("macs", "fewer macs"), ("params_nonzero", "fewer weights")]
)
def test_each_cost_has_its_own_front(cost, expected):
    revisions = [
        FakeRevision("fewer macs", metrics(macs=100)),
        FakeRevision("fewer weights", metrics(macs=200, params_nonzero=100)),
    ]

    front = [row["name"] for row in compare(revisions, cost) if row["front"]]

    assert front == [expected]


@pytest.mark.parametrize(
    "changed",
    [
        {"dataset": "cifar10"},
        {"model": "resnet20"},
        {"train.epochs": 1},
        {"data.split_seed": 1},
        {"evaluate.split": "validation"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_rows_with_other_data_or_another_dense_network_are_not_compared(changed):
    first = FakeRevision("first", metrics(0.5))
    other = FakeRevision("other", metrics(0.9, 100), first.params | changed)
    ours = FakeRevision("ours", metrics(0.6, 100))

    rows = compare([first, other, ours], "macs")

    _, other_row, our_row = rows
    assert other_row["not_comparable"] == list(changed)
    assert not other_row["front"]
    assert not other_row["best_at"]
    assert our_row["front"]
    (key,) = changed
    assert any("other" in note and key in note for note in notes(rows, {}, "macs"))


def test_rows_with_other_pruning_or_fine_tuning_are_compared():
    first = FakeRevision("first", metrics(0.5))
    changed = {"finetune.epochs": 9, "data.workers": 0, "train.rewind_epoch": 2, "ratio": 0.9}
    no_part = {"search.tries": 3, "grid.ratios": [0.1]}
    on_test = {"evaluate.split": "test"}  # which revisions older than this parameter were, too
    params = first.params | changed | no_part | on_test
    ours = FakeRevision("ours", metrics(0.6, 100), params)

    _, row = compare([first, ours], "macs")

    assert row["not_comparable"] == []
    assert row["front"]
    assert row["changed"] == changed


def test_stale_rows_are_never_on_the_front():
    first = FakeRevision("first", metrics(0.5))
    stale = FakeRevision("stale", metrics(0.9, 50), stale=["ratio"])

    assert not compare([first, stale], "macs")[1]["front"]


# --- the table and the picture ---


@pytest.mark.parametrize(
    ("drop", "half_width", "includes_zero"),
    [(0.01, 0.02, True), (-0.01, 0.02, True), (-0.03, 0.02, False)],
)
def test_a_drop_whose_interval_includes_zero_is_marked(drop, half_width, includes_zero):
    numbers = metrics(accuracy_drop=drop, accuracy_drop_ci95=half_width)

    rows = compare([FakeRevision("one", numbers)], "macs")

    header, (line,) = comparison_table(rows, "macs")
    assert rows[0]["no_drop"] is includes_zero
    assert line[header.index("drop")].endswith("=") is includes_zero


def test_long_changes_are_shortened_in_the_table_and_whole_in_the_rows():
    changed = {f"finetune.key{index}": index for index in range(20)}
    base = FakeRevision("base", metrics())

    rows = compare([base, FakeRevision("much", metrics(), base.params | changed)], "macs")

    assert rows[1]["changed"] == changed
    cell = comparison_table(rows, "macs")[1][1][1]
    shown = cell.count("=")
    assert cell.endswith(f"and {20 - shown} more")
    assert 0 < shown < 20


def test_a_row_without_a_ratio_is_shown():
    rows = compare([FakeRevision("old", metrics(), params={"method": "l1_channel"})], "macs")

    ((_, _, _, ratio, *_),) = comparison_table(rows, "macs")[1]
    assert ratio == "None"


@pytest.mark.parametrize("bad", [None, "high", float("nan"), [1]])
def test_what_is_not_a_number_is_lacking(bad):
    revision = FakeRevision("bad", metrics() | {"accuracy": bad})
    dense_revision = FakeRevision("bad", metrics(), dense=DENSE | {"accuracy": bad})

    assert lacking(revision) == ["accuracy"]
    assert lacking(dense_revision) == ["accuracy"]


def test_a_complete_revision_lacks_nothing():
    assert lacking(FakeRevision("whole", metrics())) == []


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_the_picture_is_the_same_to_the_byte(suffix, tmp_path):
    for name in "ab":
        figure = pareto_figure.comparison(compare(random_revisions(3), "macs"), "macs", "title")
        save_as(figure, tmp_path / f"{name}{suffix}")

    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_picture_names_the_split_that_was_measured():
    first = FakeRevision("first", metrics(0.5))
    for params, split in (({}, "test"), ({"evaluate.split": "validation"}, "validation")):
        revision = FakeRevision("one", metrics(0.5), first.params | params)

        figure = pareto_figure.comparison(compare([revision], "macs"), "macs", "title")

        assert figure.axes[0].get_ylabel() == f"{split} accuracy after fine-tuning"


def test_the_picture_names_every_revision_once():
    revisions = random_revisions(3)
    revisions.append(FakeRevision("twin", dict(revisions[0].metrics)))

    figure = pareto_figure.comparison(compare(revisions, "macs"), "macs", "title")

    texts = [text.get_text() for text in figure.axes[0].texts]
    names = [name for text in texts for name in text.split(", ")]
    assert sorted(names) == sorted(revision.name for revision in revisions)


# --- revisions of a project ---


def test_sections_become_dotted_keys():
    assert flatten({"a": {"b": {"c": 1}}, "d": [1, {"e": 2}], "f": {}}) == {
        "a.b.c": 1,
        "d": [1, {"e": 2}],
        "f": {},
    }


class Project(Repository):
    """A Git repository with nothing in it but parameters and metrics."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        (folder / "params.yaml").write_text((PROJECT / "params.yaml").read_text())

    def measure(self, accuracy: float, macs: int, **changes: object) -> None:
        """Change parameters and write the metrics of a run with them."""
        edit_params(self.folder / "params.yaml", **changes)
        (self.folder / "metrics").mkdir(exist_ok=True)
        (self.folder / "metrics/focus.json").write_text(json.dumps(metrics(accuracy, macs)))
        (self.folder / "metrics/base.json").write_text(json.dumps(DENSE))

    def divide_metrics(self) -> None:
        """Move all metrics but the headline to the details."""
        (self.folder / "metrics/details").mkdir()
        for name in ("focus.json", "base.json"):
            file = self.folder / "metrics" / name
            headline, others = split_metrics(json.loads(file.read_text()))
            file.write_text(json.dumps(headline))
            (self.folder / "metrics/details" / name).write_text(json.dumps({"metrics": others}))

    def experiment(self, name: str, accuracy: float, macs: int, **changes: object) -> None:
        """Leave what `dvc exp run` leaves: a commit that only refs/exps leads to."""
        head = self.git("rev-parse", "HEAD")
        self.measure(accuracy, macs, **changes)
        commit = self.commit(name)
        self.git("reset", "-q", "--hard", head)
        self.git("update-ref", f"refs/exps/{head[:2]}/{head[2:]}/{name}", commit)


@pytest.fixture
def project(tmp_path, monkeypatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


@pytest.fixture
def long_project(project) -> Project:
    """Two commits with experiments, and a changed workspace."""
    project.measure(0.80, 600)
    project.commit("first")
    project.experiment("older-exp", 0.70, 700, ratio=0.1)
    project.measure(0.85, 500, ratio=0.5)
    project.commit("second")
    project.experiment("mellow-lute", 0.75, 200, ratio=0.8)
    project.experiment("keen-rook", 0.88, 400, method="l2_channel", finetune__epochs=3)
    project.measure(0.95, 450, ratio=0.55)
    return project


def test_by_default_workspace_head_and_its_experiments_are_read(long_project):
    revisions, left_out = read_revisions(long_project.folder, [])

    assert left_out == {}
    assert {revision.name: revision.metrics["accuracy"] for revision in revisions} == {
        "workspace": 0.95,
        "HEAD": 0.85,
        "mellow-lute": 0.75,
        "keen-rook": 0.88,
    }
    assert [revision.name for revision in revisions[:2]] == ["workspace", "HEAD"]
    ratios = {revision.name: revision.params["ratio"] for revision in revisions}
    assert ratios["mellow-lute"] == 0.8


def test_commits_and_experiments_are_read_by_name(long_project):
    names = ["HEAD~1", "older-exp", "main", "keen-rook"]

    revisions, _ = read_revisions(long_project.folder, names)

    assert [revision.metrics["macs"] for revision in revisions] == [600, 700, 500, 400]
    assert revisions[0].params == flatten(read_params(PROJECT / "params.yaml"))


def test_an_experiment_of_this_commit_precedes_newer_ones_of_its_name(project):
    project.measure(0.80, 600)
    project.commit("first")
    project.experiment("again", 0.1, 100)
    project.git("commit", "-q", "--allow-empty", "-m", "second")
    project.experiment("again", 0.2, 100)
    project.git("checkout", "-q", "--detach", "HEAD~1")

    (revision,), _ = read_revisions(project.folder, ["again"])

    assert revision.metrics["accuracy"] == 0.1


def test_revisions_that_divide_metrics_are_compared_with_older_ones(project):
    project.measure(0.80, 600)
    project.commit("all metrics in one file")
    project.measure(0.80, 600)
    project.divide_metrics()
    project.commit("divided")
    (project.folder / "metrics/details/base.json").write_text("{")

    revisions, left_out = read_revisions(project.folder, ["HEAD~1", "HEAD", "workspace"])

    old, new = revisions
    assert new.metrics == old.metrics
    assert new.dense == old.dense
    assert not lacking(new)
    assert "metrics/details/base.json" in left_out["workspace"]

    (project.folder / "metrics/details/base.json").unlink()
    (without,), _ = read_revisions(project.folder, ["workspace"])
    assert lacking(without) == ["params_nonzero"]


def test_unknown_names_are_refused_with_close_ones(project):
    project.measure(0.80, 600)
    project.commit("first")
    project.experiment("mellow-lute", 0.75, 200)

    with pytest.raises(InputError) as error:
        read_revisions(project.folder, ["HEAD", "mellow-flute", "mian", "--help"])

    lute, main, option = error.value.problems
    assert "'mellow-flute' (did you mean 'mellow-lute'" in lute
    assert "'main'" in main
    assert "unknown revision '--help'" in option


def test_metrics_of_other_parameters_are_stale(project):
    (project.folder / "dvc.lock").write_text(
        "stages:\n"
        "  prune_focus: {params: {params.yaml: {prune: {floor: 0.1}}}}\n"
        "  evaluate_focus: {params: {params.yaml: {ratio: 0.6}}}\n"
        "  plot: {params: {params.yaml: {method: another}}}\n"
    )
    project.measure(0.8, 600)
    project.commit("measured")
    edit_params(project.folder / "params.yaml", ratio=0.7, prune__floor=0.2)

    revisions, _ = read_revisions(project.folder, ["HEAD", "workspace"])

    assert [revision.stale for revision in revisions] == [[], ["prune.floor", "ratio"]]


# --- the command ---


def compare_command(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["compare", *arguments])


@pytest.fixture
def two_revisions(project) -> Project:
    project.measure(0.80, 600)
    project.commit("first")
    project.experiment("mellow-lute", 0.75, 200, ratio=0.8, finetune__epochs=3)
    return project


@pytest.mark.usefixtures("two_revisions")
def test_a_comparison_with_experiments_says_how_to_go_on_from_one():
    assert "`prunelab apply REVISION` brings" in compare_command("HEAD", "mellow-lute").stdout
    assert "prunelab apply" not in compare_command("workspace", "HEAD").stdout


def test_revisions_without_metrics_are_named_below_the_table(project):
    project.commit("nothing yet")
    project.measure(0.80, 600)
    project.commit("measured")
    (project.folder / "metrics/focus.json").write_text("{")
    project.commit("damaged")
    (project.folder / "metrics/focus.json").write_text(json.dumps({"accuracy": 0.5}))
    project.commit("of old")

    result = compare_command("HEAD~3", "HEAD~2", "HEAD~1", "HEAD")

    assert result.exit_code == 0, result.stderr
    table, notes_below = result.stdout.split("\n\n")
    _, rows = re.split(r"\n-[- ]*\n", table)
    assert [line.split()[0] for line in rows.splitlines()] == ["HEAD~2"]
    reasons = {"HEAD~3": "metrics/focus.json", "HEAD~1": "line 1", "HEAD": "lack accuracy_ci95"}
    for name, reason in reasons.items():
        assert any(
            line.startswith(f"- {name} is left out") and reason in line
            for line in notes_below.replace("\n  ", " ").splitlines()
        )


def test_revisions_all_without_metrics_are_refused(project):
    project.commit("nothing yet")

    result = compare_command("HEAD")

    assert result.exit_code == 1
    assert "HEAD has nothing to compare" in result.stderr


def test_the_comparison_is_printed_and_drawn(two_revisions):
    output = compare_command("--plot", "plots/compare.svg").stdout

    lines = output.splitlines()
    (place,) = [index for index, line in enumerate(lines) if line.startswith("mellow-lute")]
    assert re.search("yes +1/2, 1/4$", lines[place])
    assert lines[place + 1] == "    finetune.epochs=3"
    assert "mellow-lute" in (two_revisions.folder / "plots/compare.svg").read_text()


@pytest.mark.usefixtures("two_revisions")
def test_the_comparison_is_a_markdown_table():
    lines = compare_command("--format", "md").stdout.splitlines()

    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


@pytest.mark.usefixtures("two_revisions")
def test_the_comparison_is_json():
    output = compare_command("--format", "json", "--cost", "params_nonzero").stdout

    row = json.loads(output)["rows"][2]
    assert row["changed"] == {"finetune.epochs": 3, "ratio": 0.8}
    assert row["share"] == 0.5


@pytest.mark.usefixtures("two_revisions")
def test_a_plot_that_is_no_picture_is_refused():
    result = compare_command("--plot", "compare.pdf")

    assert result.exit_code == 1
    assert ".svg, .png" in result.stderr


# --- latency ---


def save_networks(root: Path, ratio: float) -> None:
    """Save a dense network, and the same with this ratio of its channels removed."""
    model = build("resnet8", 10, DIGITS_SHAPE)
    save_network(seed_file(root / BASE, 0), Network(model=model, card=UNSCALED_CARD))

    prune(model, "resnet8", prune_spec("l1_channel", ratio), shape=DIGITS_SHAPE, seed=0)
    save_network(seed_file(root / FOCUS, 0), Network(model=model, card=UNSCALED_CARD))


def fake_seconds(runnables: dict) -> dict[str, np.ndarray]:
    """Call every runnable, and pretend that each takes half as long as the one before."""
    assert all(run().shape == (2, 10) for run in runnables.values())
    return {name: np.full((3, 4), 0.5**index) for index, name in enumerate(runnables)}


def test_networks_of_one_dense_network_are_measured_in_turn(tmp_path, monkeypatch):
    params = {"seeds": [0], "method": "l1_channel", "ratio": 0.5}
    revisions = [FakeRevision(name, metrics(), params) for name in ("thin", "missing", "same")]
    save_networks(tmp_path / "thin", 0.8)
    save_networks(tmp_path / "same", 0.0)
    measured_together = []

    def time_interleaved(runnables, timer, **settings):
        measured_together.append(list(runnables))
        return fake_seconds(runnables)

    def fetch(revision, path, folder):
        return tmp_path / revision.name / path

    monkeypatch.setattr(suite, "time_interleaved", time_interleaved)
    monkeypatch.setattr(revision_latency, "fetch_from", lambda root: fetch)
    result = revision_latency.time_revisions(tmp_path, revisions, runtime_params(), 2)

    assert measured_together == [["its dense network", "thin", "same"]]
    assert result.faster["thin"]["faster"] == pytest.approx(2)
    assert list(result.not_measured) == ["missing"]
    assert str(BASE) in result.not_measured["missing"]


@pytest.mark.parametrize("params", [{}, {"seeds": []}, {"seeds": None}, {"seeds": "0"}])
def test_a_commit_without_seeds_is_not_measured(tmp_path, params):
    revisions = [FakeRevision("old", metrics(), params)]

    result = revision_latency.time_revisions(tmp_path, revisions, runtime_params(), 2)

    assert result.faster == {}
    assert result.not_measured == {"old": "seeds: params.yaml names no seed"}


def test_a_disturbed_dense_network_is_called_so(tmp_path, monkeypatch):
    save_networks(tmp_path / "thin", 0.8)

    def time_interleaved(runnables, timer, **settings):
        disturbed = np.array([[1.0, 3.0, 3.0, 3.0]] * 3)
        return {name: disturbed / 2**index for index, name in enumerate(runnables)}

    def fetch(revision, path, folder):
        return tmp_path / revision.name / path

    monkeypatch.setattr(suite, "time_interleaved", time_interleaved)
    monkeypatch.setattr(revision_latency, "fetch_from", lambda root: fetch)
    revisions = [FakeRevision("thin", metrics(), {"seeds": [0]})]
    result = revision_latency.time_revisions(tmp_path, revisions, runtime_params(), 2)

    assert result.faster["thin"]["told"] == (
        "no ratio, because the median call of its dense network took 3.0 times as long as its "
        "fastest"
    )


def test_measured_speedups_are_a_column_of_the_table():
    rows = compare([FakeRevision(name, metrics()) for name in ("thin", "same")], "macs")
    rows[0] |= {"faster": 2.0, "faster_low": 1.9, "faster_high": 2.1, "told": "2.00x"}

    header, lines = comparison_table(rows, "macs")

    assert [line[header.index(FASTER)] for line in lines] == ["2.00x", ""]


# --- the table ---


@pytest.mark.parametrize("seed", range(10))
def test_rows_follow_from_most_to_least_cost_and_the_more_accurate_first(seed):
    revisions = random_revisions(seed)
    revisions[3].stale = ["ratio"]
    revisions[5].params = revisions[5].params | {"model": "resnet20"}

    rows = in_order(compare(revisions, "macs"))

    assert sorted(row["name"] for row in rows) == sorted(revision.name for revision in revisions)
    assert rows[0]["name"] == "r0"
    assert {row["name"] for row in rows[-2:]} == {"r3", "r5"}
    for part in (rows[1:-2], rows[-2:]):
        for row, following in pairwise(part):
            assert (row["cost"], row["accuracy"]) >= (following["cost"], following["accuracy"])


@pytest.mark.parametrize(
    ("cost", "title"),
    [
        ("macs", "best within share of dense MACs"),
        ("params_nonzero", "best within share of dense non-zeros"),
        ("size_compressed_bytes", "best within share of dense bytes"),
    ],
)
def test_the_title_says_what_a_share_is_of(cost, title):
    rows = compare([FakeRevision("first", metrics())], cost)

    header, (cells,) = comparison_table(rows, cost)

    assert dict(zip(header, cells, strict=True))[title] == "1/2"


@pytest.mark.parametrize("latency", [False, True])
def test_no_line_is_longer_than_a_terminal_of_120_columns(latency, monkeypatch):
    large = {
        "accuracy": 0.4,
        "accuracy_ci95": 0.25,
        "accuracy_drop": 0.4,
        "accuracy_drop_ci95": 0.5,
        "params": 138_357_544,
        "size_compressed_bytes": 528_000_000,
    }
    changes = {f"finetune.setting_{index}": "some value" for index in range(9)}
    revisions = [FakeRevision("workspace", metrics())]
    for macs, method in enumerate(sorted(METHODS, key=len)[-5:], start=100):
        params = revisions[0].params | changes | {"method": method, "ratio": 0.95}
        name = "refs/heads/" + "a-long-name-of-a-branch" * 3
        revisions.append(FakeRevision(f"{name}{macs}", metrics(macs=macs, **large), params))
    rows = compare(revisions, "macs")
    for row in rows if latency else ():
        row["told"] = "123.45x (120.00 to 130.00)"

    text = document(rows, {"gone" * 50: "no metrics " * 30}, "macs", [], markdown=False)

    assert max(map(len, text.splitlines())) <= 120
    if not latency:
        assert text.count("40.00 ± 25.00") == 5  # numbers stay whole
    assert "finetune.setting_0=some value" in text


def test_names_that_take_several_lines_are_whole_below_the_table():
    names = [f"sweep-resnet8-random_channel-0.{ratio}-8b039819" for ratio in range(5)]
    rows = compare([FakeRevision(name, metrics()) for name in names], "macs")
    for row in rows:
        row["method"] = "l1_unstructured_rate_rewinding"

    text = document(rows, {}, "macs", [], markdown=False)
    short = document(rows[:1], {}, "macs", [], markdown=True)

    assert "whole names" in text
    assert all(name in text.split() or f"{name}," in text.split() for name in names)
    assert "whole names" not in short


LINES = st.lists(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=40), min_size=3, max_size=3
    ),
    max_size=4,
)


@given(LINES, st.integers(30, 80))
def test_a_narrow_table_loses_no_letter(lines, width):
    header = ["first", "the second", "a third title of several words"]

    text = narrow_table(header, lines, width, flexible=["first"], below=["below"] * len(lines))

    assert max(map(len, text.splitlines())) <= width
    shown = Counter(text.replace(" ", "").replace("\n", ""))
    expected = Counter("".join(one_line(cell) for cell in chain(header, *lines)).replace(" ", ""))
    assert shown >= expected


# --- revisions of DVC itself ---


def dvc(project: Project, *arguments: str) -> None:
    subprocess.run(["dvc", *arguments], cwd=project.folder, check=True, capture_output=True)


@pytest.mark.slow
def test_networks_of_commits_come_from_dvcs_cache(project):
    dvc(project, "init", "-q")
    for ratio, macs in ((0.5, 500), (0.8, 100)):
        save_networks(project.folder, ratio)
        dvc(project, "add", "-q", "models")
        project.measure(0.8, macs)
        project.commit(f"{ratio}")
    shutil.rmtree(project.folder / "models")

    result = compare_command("HEAD~1", "HEAD", "workspace", "--latency", "64", "--format", "json")

    *committed, workspace = json.loads(result.stdout)["rows"]
    assert len(committed) == 2
    for row in committed:
        assert row["faster_low"] <= row["faster"] <= row["faster_high"]
    assert "told" not in workspace

    shutil.rmtree(project.folder / ".dvc/cache")
    output = compare_command("HEAD", "--latency", "64").stdout
    assert "HEAD was not measured" in output
    assert "neither in DVC's cache nor in a remote" in output


@pytest.mark.slow
def test_an_experiment_that_dvc_ran_is_read(project):
    project.git("config", "user.name", "Test")
    project.git("config", "user.email", "test@example.com")
    (project.folder / "dvc.yaml").write_text(
        "stages:\n"
        "  evaluate_focus:\n"
        "    cmd: cp numbers.json metrics/focus.json\n"
        "    deps: [numbers.json]\n"
        "    params: [ratio]\n"
        "    metrics: [metrics/focus.json: {cache: false}]\n"
    )
    project.measure(0.8, 600)
    (project.folder / "numbers.json").write_text(json.dumps(metrics(0.8, 600)))
    dvc(project, "init", "-q")
    dvc(project, "repro", "-q")
    project.commit("first")
    dvc(project, "exp", "run", "-q", "--temp", "-S", "ratio=0.9", "--name", "calm-hen")

    revisions, left_out = read_revisions(project.folder, [])

    assert left_out == {}
    assert [(revision.name, revision.params["ratio"]) for revision in revisions] == [
        ("workspace", 0.6),
        ("HEAD", 0.6),
        ("calm-hen", 0.9),
    ]
    assert all(revision.stale == [] for revision in revisions)
