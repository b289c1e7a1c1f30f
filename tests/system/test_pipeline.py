"""dvc.yaml against the code, and the whole pipeline on a tiny configuration in a clone."""

import ast
import json
import math
import re
from pathlib import Path

import pytest
import stage_locks
from helpers.params import PROJECT, edit_params
from helpers.repository import STAGES, Clone, stages_run
from ruamel.yaml import YAML

from prunelab.config.safe_yaml import parse_yaml
from prunelab.core.metrics_files import HEADLINE
from prunelab.runtime.device import FINGERPRINT_PACKAGES
from prunelab.stages.code import main as write_code_digests
from prunelab.stages.names import stage_names

SOURCE = PROJECT / "src"
# What the others depend on: their code, and the parameters that all cells of the grid share.
COMPUTED = [name for name in STAGES if name not in ("code", "settings")]


def commands(stage: dict) -> list[str]:
    return stage["cmd"] if isinstance(stage["cmd"], list) else [stage["cmd"]]


def modules_run(stage: dict) -> list[str]:
    modules = []
    for command in commands(stage):
        for name in re.findall(r"-m prunelab\.stages (\w+)", command):
            modules.append(f"prunelab.stages.{name}")
    return modules


def file_of(module: str) -> Path:
    return SOURCE / Path(*module.split(".")).with_suffix(".py")


def code_listed(stage: dict) -> list[str]:
    return [dep for dep in stage["deps"] if dep.startswith("data/code/")]


def params_listed(stage: dict) -> set[str]:
    """The parameters on which a stage depends, by itself or through a file of stage `settings`."""
    listed = set(stage.get("params", []))
    for entry in STAGES["settings"]["cmd"].split():
        name, is_entry, keys = entry.partition("=")
        if is_entry and f"data/settings/{name}.json" in stage["deps"]:
            listed.update(keys.split(","))
    return listed


@pytest.fixture(scope="module")
def digests(tmp_path_factory) -> dict[str, dict[str, str]]:
    """What stage `code` writes for the code as it is: digests of files by stage."""
    folder = tmp_path_factory.mktemp("code")
    write_code_digests(folder)
    return {file.stem: json.loads(file.read_text()) for file in folder.iterdir()}


@pytest.mark.parametrize("name", [*COMPUTED, "settings"])
def test_stages_depend_on_the_code_that_they_run(name):
    modules = [module.rpartition(".")[2] for module in modules_run(STAGES[name])]

    assert code_listed(STAGES[name]) == [f"data/code/{module}.json" for module in modules]


def test_code_digests_cover_every_stage_and_are_watched(digests):
    watched = STAGES["code"]["deps"]
    files = {file for stage in digests.values() for file in stage}
    unwatched = []
    for file in files:
        path = file if file.startswith("plugins/") else f"src/{file}"
        if not any(path.startswith(f"{dep}/") for dep in watched):
            unwatched.append(path)

    assert STAGES["code"]["outs"] == [f"data/code/{name}.json" for name in sorted(digests)]
    assert set(digests) == {name for name in stage_names() if name != "code"}
    assert unwatched == []


@pytest.mark.parametrize("name", COMPUTED)
def test_stages_depend_on_the_packages_that_their_results_depend_on(name, digests):
    modules = [module.rpartition(".")[2] for module in modules_run(STAGES[name])]
    rooms = {file.split("/")[1] for module in modules for file in digests[module]}
    locks = {dep for dep in STAGES[name]["deps"] if dep.endswith(".lock")}

    expected = {"environment.lock"}
    if rooms & {"figures", "page"}:
        expected.add("pictures.lock")
    if "benchmarking" in rooms:
        expected.add("benchmark.lock")

    assert locks == expected


@pytest.mark.parametrize("name", stage_locks.LOCKS)
def test_small_locks_have_the_versions_of_the_full_lock(name):
    requirements = (PROJECT / "requirements.lock").read_text()
    expected = stage_locks.locked_versions(requirements, stage_locks.LOCKS[name])
    assert (PROJECT / name).read_text() == expected


@pytest.mark.parametrize("name", stage_locks.LOCKS)
def test_results_rest_on_the_same_versions_with_every_python(name):
    assert "python_" not in (PROJECT / name).read_text()  # a marker


def test_environment_lock_covers_every_package_of_the_fingerprint():
    """DVC is noted in the fingerprint, but no number depends on it."""
    packages = {
        line.partition("==")[0] for line in (PROJECT / "environment.lock").read_text().splitlines()
    }
    assert set(FINGERPRINT_PACKAGES) - {"dvc"} <= packages


COMPUTING = {"train_base", "prune", "finetune", "evaluate", "sensitivity"}
DRAWING = {"plot", "plot_focus", "plot_sensitivity", "report"}


@pytest.mark.parametrize(
    ("edited", "unaffected"),
    [
        ("figures", COMPUTING | {"prepare", "benchmark", "report"}),
        ("page", COMPUTING | {"prepare", "benchmark", "plot"}),
        ("report", COMPUTING | {"prepare", "benchmark"}),
        ("datasets", COMPUTING | DRAWING | {"benchmark"}),
        ("pruning", DRAWING | {"prepare", "train_base", "finetune", "evaluate", "benchmark"}),
        ("training", DRAWING | {"prepare", "evaluate", "benchmark"}),
        ("evaluation", DRAWING | {"prepare", "train_base", "prune", "finetune", "benchmark"}),
        ("benchmarking", COMPUTING | DRAWING | {"prepare"}),
        ("models", DRAWING | {"prepare"}),
        ("commands", COMPUTING | DRAWING | {"prepare", "benchmark"}),
        ("project", COMPUTING | DRAWING | {"prepare", "benchmark"}),
        ("config", COMPUTING | DRAWING | {"prepare", "benchmark"}),
        ("warm", COMPUTING | DRAWING | {"prepare", "benchmark"}),
    ],
)
def test_an_edit_reruns_only_the_stages_that_use_the_room(edited, unaffected, digests):
    assert (SOURCE / "prunelab" / edited).is_dir()
    for name in unaffected:
        assert not any(file.startswith(f"prunelab/{edited}/") for file in digests[name]), name


def params_read(file: Path) -> set[str]:
    """What a stage takes out of `params`, as dotted keys; its methods stand for what they read."""
    keys = set()
    tree = ast.parse(file.read_text())
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in inner:
            parts = []
            while isinstance(node, ast.Attribute):
                parts.append(node.attr)
                node = node.value
            if isinstance(node, ast.Name) and node.id == "params":
                keys.add(".".join(reversed(parts)))
    if "spec" in keys:
        keys = keys - {"spec"} | {"budget", "prune"}
    return {key.removesuffix(".cells") for key in keys}


@pytest.mark.parametrize("name", COMPUTED)
def test_listed_params_are_those_that_a_stage_reads(name, digests):
    """A parameter that a stage reads and does not list would leave stale results behind when it
    changes. Functions of other rooms may take all parameters too.
    """
    files = []
    for module in modules_run(STAGES[name]):
        files.append(file_of(module))
        for path in digests[module.rpartition(".")[2]]:
            is_stage = path.startswith("prunelab/stages/")
            if not is_stage and "params: Params" in (SOURCE / path).read_text():
                files.append(SOURCE / path)
    used = set().union(*map(params_read, files))
    listed = params_listed(STAGES[name])

    assert used
    for key in used:
        assert any(key == entry or key.startswith(f"{entry}.") for entry in listed), (
            f"{key} is read but not listed"
        )
    for entry in listed:
        assert any(key == entry or key.startswith(f"{entry}.") for key in used), (
            f"{entry} is listed but not read"
        )


@pytest.mark.parametrize("name", ["prune", "finetune", "evaluate"])
def test_a_cell_of_the_grid_depends_on_the_parameters_of_the_focus(name):
    of_the_focus = params_listed(STAGES[f"{name}_focus"])
    drawn_with = {"dataset", "model", "method", "ratio"}  # the focus's pictures name them

    assert params_listed(STAGES[name]) == of_the_focus - drawn_with


def test_settings_watches_the_parameters_that_it_writes_and_no_others():
    cells = [STAGES[name] for name in ("prune", "finetune", "evaluate")]
    written = set().union(*map(params_listed, cells))
    watched = set(STAGES["settings"]["params"])

    assert {key for key in written if key.partition(".")[0] in watched} == written
    assert watched <= written


def test_every_stage_runs_its_own_checkout():
    for stage in STAGES.values():
        for command in commands(stage):
            assert command.startswith("PYTHONPATH=src python -m prunelab.stages ")


def test_only_evaluate_reads_the_test_split():
    readers = {
        name
        for name, stage in STAGES.items()
        if any("prepared/test" in dep for dep in stage["deps"])
    }

    assert readers == {"evaluate_base", "evaluate", "evaluate_focus"}
    for name in readers:
        assert "evaluate" in params_listed(STAGES[name])  # it names the split that is evaluated


def test_sensitivity_uses_neither_the_test_split_nor_pruning_params():
    stage = STAGES["sensitivity"]
    assert not any("test" in dep for dep in stage["deps"])
    assert not any(
        key.split(".")[0] in ("prune", "method", "ratio", "grid") for key in stage["params"]
    )


def test_focus_paths_hold_no_swept_value():
    for name in ("prune_focus", "finetune_focus", "evaluate_focus"):
        stage = STAGES[name]
        outputs = [
            next(iter(out)) if isinstance(out, dict) else out
            for kind in ("outs", "metrics", "plots")
            for out in stage.get(kind, [])
        ]
        assert outputs
        assert not any("$" in out for out in outputs)


CONTRACT = {
    "accuracy",
    "accuracy_ci95",
    "accuracy_pruned",
    "accuracy_drop",
    "accuracy_drop_ci95",
    "loss",
    "precision_macro",
    "recall_macro",
    "f1_macro",
    "specificity_macro",
    "params",
    "params_nonzero",
    "sparsity",
    "macs",
    "macs_ratio",
    "params_ratio",
    "size_bytes",
    "size_compressed_bytes",
    "train_macs",
    "seeds",
    "accuracy_top5",
    "worst_class_drop",
    "calibration_error",
    "macs_nonzero",
    "size_sparse_bytes",
}
COUNTS = {
    key
    for key in CONTRACT
    if key.startswith(("params", "macs", "size", "train", "seeds")) and "ratio" not in key
}


# What is written by hand, or by commands: no stage makes it.
USERS_FOLDERS = ("src/", "plugins", "searches")


def test_committed_lock_lists_only_files_that_stages_make():
    """Files left in a folder by older code would be hashed with it, and a fresh clone would come to
    another lock.
    """
    stages = parse_yaml(PROJECT / "dvc.lock", fast=True)["stages"].values()
    made = {out["path"]: out.get("nfiles", 1) for stage in stages for out in stage.get("outs", [])}
    folders = {
        dep["path"]: dep["nfiles"]
        for stage in stages
        for dep in stage["deps"]
        if "nfiles" in dep and not dep["path"].startswith(USERS_FOLDERS)
    }

    assert folders
    for folder, files in folders.items():
        assert files == sum(
            its for path, its in made.items() if f"{path}/".startswith(f"{folder}/")
        ), folder


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Clone:
    clone = Clone(tmp_path_factory.mktemp("clone"))
    methods = ["l1_unstructured", "random_channel"]
    edit_params(
        clone.folder / "params.yaml",
        seeds=[0, 1],
        grid__methods=methods,
        grid__ratios=[0.5],
        train__epochs=2,
        finetune__epochs=1,
        benchmark={"batch_sizes": [1, 8], "backends": ["eager"], "rounds": 2, "seconds": 0.02},
    )
    # The environment holds an editable install of the original checkout; this line shows whose code
    # runs.
    prepare = clone.folder / "src/prunelab/stages/prepare.py"
    prepare.write_text('print("the clone\'s own code")\n' + prepare.read_text())
    clone.commit("Tiny configuration")
    output = clone.run("dvc", "repro").stdout
    assert "the clone's own code" in output
    grid = [
        f"{stage}@{cell}-0.5" for stage in ("prune", "finetune", "evaluate") for cell in methods
    ]
    focus = ["prune_focus", "finetune_focus", "evaluate_focus"]
    told = ["sensitivity", "plot_sensitivity", "plot", "benchmark", "report"]
    assert sorted(stages_run(output)) == sorted(
        ["code", "settings", "prepare", "train_base", "evaluate_base", *grid, *focus, *told]
    )
    clone.commit("Results")
    return clone


def test_metrics_of_every_configuration_are_flat_rounded_and_finite(clone):
    for name in (
        "base.json",
        "grid/l1_unstructured-0.5.json",
        "grid/random_channel-0.5.json",
        "focus.json",
    ):
        measured = clone.all_metrics(name)
        assert set(measured) >= CONTRACT
        assert set(clone.metrics(name)) == set(HEADLINE)
        for key, value in measured.items():
            assert isinstance(value, int | float), key
            assert math.isfinite(value), key
            assert round(value, 6) == value, key
        assert all(isinstance(measured[key], int) for key in COUNTS)
    base, masked, thin = (
        clone.all_metrics(name)
        for name in ("base.json", "grid/l1_unstructured-0.5.json", "focus.json")
    )

    assert base["accuracy_drop"] == base["sparsity"] == base["train_macs"] == 0
    assert masked["sparsity"] == pytest.approx(0.5, abs=1e-3)
    assert masked["macs_ratio"] == 1
    assert thin["macs_ratio"] > 1.5
    assert masked["accuracy_drop"] == pytest.approx(base["accuracy"] - masked["accuracy"], abs=2e-6)
    assert thin["train_macs"] < masked["train_macs"]


def test_details_agree_with_the_metrics(clone):
    for name in (
        "base.json",
        "grid/l1_unstructured-0.5.json",
        "grid/random_channel-0.5.json",
        "focus.json",
    ):
        measured, details = clone.all_metrics(name), clone.metrics(f"details/{name}")
        assert len(details["seeds"]) == measured["seeds"]
        accuracies = [row["accuracy"] for row in details["seeds"]]
        assert sum(accuracies) / len(accuracies) == pytest.approx(measured["accuracy"], abs=2e-6)
        recalls = [row["recall"] for row in details["classes"]]
        assert sum(recalls) / len(recalls) == pytest.approx(measured["recall_macro"], abs=2e-6)
        left = sum(row["weights_nonzero"] for row in details["layers"])
        assert 1 - left / sum(row["weights_dense"] for row in details["layers"]) == pytest.approx(
            measured["sparsity"], abs=1e-4
        )


def test_pictures_table_and_environment_exist(clone):
    grid = ("tradeoff", "tradeoff_before", "overview", "training", "confusion_dense")
    for name in (*grid, "focus/focus", "sensitivity"):
        for suffix in (".svg", ".png"):
            assert (clone.folder / f"plots/{name}{suffix}").stat().st_size > 5000
    table = (clone.folder / "metrics/table.md").read_text()

    assert "| l1_unstructured | 0.5 |" in table
    assert "| dense |" in table

    for name in ("base", "l1_unstructured-0.5", "random_channel-0.5", "focus"):
        environment = clone.metrics(f"environment/{name}.json")
        assert environment["threads"] == 1
        assert "torch" in environment["packages"]
    lock = YAML(typ="safe").load(clone.folder / "dvc.lock")["stages"]

    assert not [
        out for stage in lock.values() for out in stage["outs"] if "environment" in out["path"]
    ]


def test_speed_is_measured_for_all_cells_in_files_of_its_own(clone):
    measured = clone.metrics("speed/benchmark.json")
    names = {"dense", "l1_unstructured-0.5", "random_channel-0.5"}

    assert {(row["name"], row["batch_size"]) for row in measured["latency"]} == {
        (n, b) for n in names for b in (1, 8)
    }
    assert {row["name"] for row in measured["memory"]} == names
    assert "| l1_unstructured-0.5 |" in (clone.folder / "metrics/speed/table.md").read_text()

    content = YAML(typ="safe").load(clone.folder / "dvc.yaml")["stages"]
    readers = [
        name
        for name, stage in content.items()
        if any("metrics/speed" in dep for dep in stage["deps"])
    ]

    assert readers == ["report"]
    assert (
        len((clone.folder / "plots/report.html").read_text()) > 10**6
    )  # the charts' script is in it


def test_report_page_is_ignored_by_git(clone):
    assert clone.run("git", "check-ignore", "plots/report.html").stdout


def test_dvc_writes_no_gitignore_into_the_folders_it_hashes(clone):
    assert not [
        path
        for path in clone.folder.rglob(".gitignore")
        if path.parent.name not in (clone.folder.name, ".dvc")
    ]


def test_second_repro_runs_nothing(clone):
    assert stages_run(clone.run("dvc", "repro").stdout) == []
    assert clone.run("git", "status", "--porcelain").stdout == ""


def test_dvc_plots_show_draws_everything_without_warnings(clone):
    shown = clone.run("dvc", "plots", "show", "--json")

    assert "DVC failed" not in shown.stderr

    content = json.loads(shown.stdout)

    assert not content.get("errors")

    names = " ".join(content.get("data", content))

    for wanted in (
        "Accuracy against MACs",
        "plots/tradeoff.png",
        "plots/focus/training.json",
        "dense_confusion.json",
    ):
        assert wanted in names

    clone.run("dvc", "plots", "show")
    page = (clone.folder / "dvc_plots/index.html").read_text()

    assert page.count("vegaEmbed(") >= 6


def test_an_experiment_runs_three_stages_and_shows_deltas_only(clone):
    before = clone.metrics("focus.json")
    output = clone.run("dvc", "exp", "run", "-S", "ratio=0.8").stdout

    assert stages_run(output) == ["prune_focus", "finetune_focus", "evaluate_focus"]

    after = clone.metrics("focus.json")
    diff = json.loads(clone.run("dvc", "metrics", "diff", "--json").stdout)

    assert set(diff) == {"metrics/focus.json"}

    rows = diff["metrics/focus.json"]

    assert {"accuracy", "macs", "params", "sparsity"} <= set(rows)
    for key, row in rows.items():
        assert row["old"] == before[key]
        assert row["new"] == after[key]
        assert row["diff"] == pytest.approx(after[key] - before[key])
    assert rows["sparsity"]["diff"] > 0.15

    shown = clone.run("dvc", "exp", "show", "--only-changed", "--csv").stdout
    columns = shown.splitlines()[0].split(",")
    about = ["Experiment", "rev", "typ", "Created"]
    metrics, others = columns[len(about) : -4], columns[-4:]

    assert columns[: len(about)] == about
    assert set(metrics) <= set(HEADLINE)
    assert {"accuracy", "accuracy_drop", "macs", "params", "sparsity"} <= set(metrics)
    inputs = ["finetuned", "history.json", "pruned"]
    assert others == ["ratio", *(f"models/focus/{name}" for name in inputs)]

    # The next experiment shows that this leaves nothing to run again.
    clone.run("git", "checkout", "-q", ".")
    clone.run("dvc", "checkout", "-q")


@pytest.mark.slow
def test_focus_and_grid_cell_of_equal_settings_are_equal_to_the_bit(clone):
    """The same configuration by two ways: a free check that runs repeat to the bit."""
    clone.run("dvc", "exp", "run", "-S", "method=random_channel", "-S", "ratio=0.5")

    assert clone.metrics("focus.json") == clone.metrics("grid/random_channel-0.5.json")

    for seed in (0, 1):
        focus, cell = (
            (clone.folder / f"models/{place}/finetuned/{seed}.safetensors").read_bytes()
            for place in ("focus", "grid/random_channel-0.5")
        )
        assert focus == cell
    clone.run("git", "checkout", "-q", ".")
    clone.run("dvc", "checkout", "-q")


def test_bad_experiment_names_the_problem_and_the_recovery_works(clone):
    failed = clone.run("dvc", "exp", "run", "-S", "method=l1_chanel", check=False)

    assert failed.returncode != 0
    assert "unknown method 'l1_chanel' (did you mean 'l1_channel', " in failed.stderr
    assert "git checkout params.yaml && dvc checkout" in failed.stderr
    assert "Traceback" not in failed.stderr

    clone.run("git", "checkout", "params.yaml")
    clone.run("dvc", "checkout")

    assert stages_run(clone.run("dvc", "repro").stdout) == []
    assert clone.run("git", "status", "--porcelain").stdout == ""
