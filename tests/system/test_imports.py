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
from prunelab.core.files import write_json

TORCH = {"torch", "torchvision", "torch_pruning", "torchprofile", "sympy", "triton"}
STATISTICS = {"sklearn", "scipy", "pandas"}
TEXTS = {"transformers", "tokenizers"}
PICTURES = {"matplotlib", "PIL"}
SLOW = {*TORCH, *STATISTICS, *TEXTS, *PICTURES, "plotly", "dvc"}

RUN = """
import atexit, json, runpy, sys

module, report = sys.argv[1:3]
atexit.register(lambda: open(report, "w").write(json.dumps(list(sys.modules))))
sys.argv = [module, *sys.argv[3:]]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def imported(folder: Path, *command: str, status: int = 0) -> set[str]:
    """The modules that `python -m COMMAND` has imported when it ends, run in a folder."""
    report = folder / "imported.json"
    process = subprocess.run(
        [sys.executable, "-c", RUN, command[0], str(report), *command[1:]],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(PROJECT / "src"), "GIT_CONFIG_GLOBAL": os.devnull},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == status, process.stderr + process.stdout
    modules = set(json.loads(report.read_text()))
    report.unlink()
    return modules


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


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("repro", "--help"),
        ("list",),
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
