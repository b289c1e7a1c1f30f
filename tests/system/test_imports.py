"""What stages and commands import as they run: slow packages only where their work needs them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.params import PROJECT, edit_params
from helpers.repository import Repository

from prunelab.artifacts.predictions import save_predictions
from prunelab.core.cores import available_cores
from prunelab.core.files import write_json
from prunelab.core.source_code import code_digests
from prunelab.core.stage_code import UNTRACKED, stage_digests

TORCH = {"torch", "torchvision", "torch_pruning", "torchprofile", "sympy", "triton"}
STATISTICS = {"sklearn", "scipy", "pandas"}
TEXTS = {"transformers", "tokenizers"}
PICTURES = {"matplotlib", "PIL"}
COMPILER = {"torch._dynamo", "torch._inductor", "torch.onnx", "torch.distributed"}
SLOW = {*TORCH, *STATISTICS, *TEXTS, *PICTURES, *COMPILER, "plotly", "dvc"}

RUN = """
import atexit, json, runpy, sys

module, report = sys.argv[1:3]
atexit.register(lambda: open(report, "w").write(json.dumps(list(sys.modules))))
sys.argv = [module, *sys.argv[3:]]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""

# Most stages need torch, whose import takes longer than what else they do, so it is made once.
RUN_IN_FORKS = """
import json, os, runpy, sys, traceback

commands = json.load(open(sys.argv[1]))
import torch.version
json.dump(list(sys.modules), open("torch", "w"))
for name, (module, arguments) in commands.items():
    child = os.fork()
    if child == 0:
        status = 0
        try:
            sys.argv = [module, *arguments]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        json.dump(list(sys.modules), open(name, "w"))
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, name
"""


def run_python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(PROJECT / "src"), "GIT_CONFIG_GLOBAL": os.devnull},
        capture_output=True,
        text=True,
        check=False,
    )


def imported(folder: Path, *command: str, status: int = 0) -> set[str]:
    """The modules that `python -m COMMAND` has imported when it ends, run in a folder."""
    report = folder / "imported.json"
    process = run_python(folder, RUN, command[0], str(report), *command[1:])
    assert process.returncode == status, process.stderr + process.stdout
    modules = set(json.loads(report.read_text()))
    report.unlink()
    return modules


PREPARED, BASE, CELLS = "data/prepared", "models/base/final", "models/grid"
CELL = f"{CELLS}/l1_unstructured-0.5"
PRUNED, TUNED = f"{CELL}/pruned", f"{CELL}/finetuned"

# By name: a stage with its arguments and the slow packages that its work needs, in their order.
COMPUTING = {
    "prepare": (("data/raw", PREPARED), set()),
    "train_base": ((PREPARED, "models/base", "history/base.json"), {"torch"}),
    "prune masks": (
        ("models/base", PREPARED, PRUNED, "--method=l1_unstructured", "--ratio=0.5"),
        {"torch"},
    ),
    "prune channels": (
        ("models/base", PREPARED, "thinner", "--method=l1_channel", "--ratio=0.5"),
        {"torch"},
    ),
    "evaluate": ((PREPARED, BASE, "base.json", "base.safetensors"), {"torch", "torchprofile"}),
    "sensitivity": ((PREPARED, BASE, "sensitivity.json"), {"torch"}),
    "finetune": ((PRUNED, BASE, PREPARED, TUNED, "history.json"), {"torch", "torchprofile"}),
    "benchmark": ((BASE, CELLS, "speed"), {"torch"}),
}


@pytest.fixture(scope="module")
def computed(tmp_path_factory) -> dict[str, set[str]]:
    """The modules that every stage of a tiny study imports, and those of `import torch` alone.

    There is one core, where seeds compute one after another in the process that is looked at.
    """
    folder = tmp_path_factory.mktemp("computed")
    shutil.copy(PROJECT / "params.yaml", folder)
    edit_params(
        folder / "params.yaml",
        **{"seeds": [0, 1], "grid__methods": ["l1_unstructured"]},
        **{"grid__ratios": [0.5], "train__epochs": 1, "finetune__epochs": 1},
        **{"train__batch_size": 512, "finetune__batch_size": 512, "prune__samples": 64},
        **{"sensitivity__samples": 50, "sensitivity__ratios": [0.5]},
        **{"benchmark__batch_sizes": [1], "benchmark__rounds": 2, "benchmark__seconds": 0.01},
        **{"runtime__threads": 1, "runtime__device": "cpu"},
    )
    modules, with_torch = {}, {}
    for name, (arguments, needed) in COMPUTING.items():
        module = f"prunelab.stages.{name.split()[0]}"
        if "torch" in needed:
            with_torch[name] = (module, arguments)
        else:
            modules[name] = imported(folder, module, *arguments)

    (folder / "commands.json").write_text(json.dumps(with_torch))
    one_core = "".join(f"os.sched_setaffinity(0, [{core}])" for core in available_cores()[:1])
    process = run_python(folder, f"import os; {one_core}\n{RUN_IN_FORKS}", "commands.json")
    assert process.returncode == 0, process.stderr + process.stdout
    for name in ("torch", *with_torch):
        modules[name] = set(json.loads((folder / name).read_text()))
    return modules


@pytest.mark.parametrize("name", COMPUTING)
def test_stages_that_compute_import_only_what_their_work_needs(computed, name):
    _, needed = COMPUTING[name]
    unavoidable = computed["torch"] if "torch" in needed else set()

    assert (computed[name] & SLOW) - unavoidable == needed - unavoidable


def files_that_count(modules: set[str]) -> set[str]:
    """The files of this package among modules, without those that only untracked rooms import."""
    untracked = set()
    for module in ("prunelab.config.params", "prunelab.stages.__main__"):
        untracked |= set(code_digests([module], {"prunelab": PROJECT / "src"}))

    files = set()
    for name in modules:
        room = ".".join(name.split(".")[:2])
        if name.startswith("prunelab.") and room not in UNTRACKED:
            path = Path(*name.split("."))
            is_package = (PROJECT / "src" / path).is_dir()
            files.add(str(path / "__init__.py" if is_package else path.with_suffix(".py")))
    return files - untracked


@pytest.mark.parametrize("name", COMPUTING)
def test_code_digests_cover_all_that_stages_import_as_they_run(computed, name):
    used = files_that_count(computed[name])

    assert len(used) > 2
    assert used <= set(stage_digests(name.split()[0]))


HISTORY = [
    {"seed": 0, "epoch": epoch, "loss": 1.0, "accuracy": 0.5}
    | {"validation_loss": 1.0, "validation_accuracy": 0.6}
    for epoch in (1, 2)
]


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """The committed results in a repository, with made-up data, histories and predictions."""
    folder = tmp_path_factory.mktemp("study")
    for name in ("metrics", "plots", "studies"):
        shutil.copytree(PROJECT / name, folder / name)
    (folder / ".dvc").mkdir()
    for name in ("params.yaml", "dvc.yaml", "dvc.lock", ".gitignore", ".dvc/config"):
        shutil.copy(PROJECT / name, folder / name)

    # The cells that the committed results have.
    points = json.loads((folder / "plots/tradeoff.json").read_text())
    methods = list(dict.fromkeys(point["method"] for point in points))
    ratios = list(dict.fromkeys(point["ratio"] for point in points))
    edit_params(folder / "params.yaml", grid__methods=methods, grid__ratios=ratios)
    cells = [f"{method}-{ratio}" for method in methods for ratio in ratios]

    inputs = {"inputs": "0", "labels": "0"}
    data_info = {"dataset": "digits", "classes": list("0123456789"), "shape": [1, 8, 8]}
    data_info |= {"mean": [0.5], "std": [0.2], "counts": {"train": 1}, "sha256": {"train": inputs}}
    write_json(folder / "data/described/dataset.json", data_info)

    labels = np.zeros(9, np.int64)
    answers = np.zeros((1, 9), np.int64)
    for name in ("base", *cells):
        write_json(folder / f"models/history/{name}.json", HISTORY)
        save_predictions(
            folder / f"models/predictions/{name}.safetensors",
            **{"labels": labels, "before": answers, "after": answers, "losses": answers * 1.0},
        )

    repository = Repository(folder)
    repository.commit("A study")
    return folder


DATA, HISTORIES, CONFUSION = "data/described", "models/history", "plots/dense_confusion.json"
STAGES = {
    "plot": (DATA, HISTORIES, "models/predictions", "metrics", CONFUSION, "out/plots"),
    "plot_focus": (DATA, f"{HISTORIES}/base.json", CONFUSION, "out/focus"),
    "plot_sensitivity": ("metrics/sensitivity.json", "out/sensitivity"),
    "report": (DATA, "metrics", "plots", "out/report.html"),
}
NEEDED = {"plot": PICTURES, "plot_focus": PICTURES, "plot_sensitivity": PICTURES}
NEEDED["report"] = {"plotly"}


@pytest.mark.parametrize("stage", STAGES)
def test_stages_that_draw_import_only_what_draws(study, stage):
    modules = imported(study, f"prunelab.stages.{stage}", *STAGES[stage])

    assert modules & SLOW == NEEDED[stage]
    used = files_that_count(modules)
    assert used <= set(stage_digests(stage))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("repro", "--help"),
        ("list",),
        ("list", "methods"),
        ("list", "metrics"),
        ("explain", "lamp_channel"),
        ("compare", "HEAD"),
        ("study", "show", "resnet56_cpu"),
    ],
    ids=" ".join,
)
def test_commands_that_only_read_import_no_slow_package(study, arguments):
    assert imported(study, "prunelab", *arguments) & SLOW == set()


@pytest.mark.slow  # it starts DVC four times
def test_a_review_imports_no_slow_package(study):
    modules = imported(study, "prunelab", "review", "HEAD", status=1)  # there is no code beside it

    assert modules & SLOW == set()


def test_check_imports_torch_for_a_study_that_it_does_not_know(study):
    first = imported(study, "prunelab", "check")
    second = imported(study, "prunelab", "check")

    assert "torch" in first
    assert second & SLOW == set()
