"""A project of tiny programs, in every place of a Git repository where it may lie."""

import shutil
from pathlib import Path

from helpers.params import PROJECT, edit_params
from helpers.repository import Repository
from helpers.studies import TINY, measured_metrics, write_study
from prunelab.core.files import write_json

# Git and .gitignore would take some of these characters for a pattern.
SUBFOLDER = "research/pruning #1 [draft]"

# The stages of the project by name, without training: each takes as long as Python to start.
PIPELINE = """
stages:
  train_base:
    cmd: python make.py network models/base/final/seed_0.txt ${model}
    deps: [make.py]
    params: [model, seeds, train]
    outs: [models/base/final]
  evaluate_base:
    cmd: python make.py base metrics/base.json && python make.py network models/predictions/base.txt
    deps: [make.py, base.json, models/base/final]
    outs: [models/predictions/base.txt]
    plots: [metrics/base.json: {cache: false}]
  prune:
    matrix: {method: "${grid.methods}", ratio: "${grid.ratios}"}
    cmd: python make.py network models/grid/${key}/network.txt ${item.method} ${item.ratio}
    deps: [make.py, models/base/final]
    outs: ["models/grid/${key}"]
  evaluate:
    matrix: {method: "${grid.methods}", ratio: "${grid.ratios}"}
    cmd: python make.py focus metrics/grid/${key}.json ${item.ratio}
    deps: [make.py, focus.json, "models/grid/${key}"]
    plots: [{"metrics/grid/${key}.json": {cache: false}}]
  evaluate_focus:
    cmd:
    - python make.py network models/focus/finetuned/seed_0.txt ${method} ${ratio}
    - python make.py focus metrics/focus.json ${ratio}
    deps: [make.py, focus.json, models/base/final, models/predictions/base.txt]
    params: [model, method, ratio, seeds, finetune]
    outs: [models/focus/finetuned]
    metrics: [metrics/focus.json: {cache: false}]
"""
MAKE = """
import json, pathlib, sys
kind, name, *words = sys.argv[1:]
path = pathlib.Path(name)
path.parent.mkdir(parents=True, exist_ok=True)
if kind == "network":
    path.write_text(" ".join(words))
else:
    metrics = json.loads(pathlib.Path(f"{kind}.json").read_text())
    if words:
        metrics["macs"] = round(metrics["macs"] * (1 - float(words[0])))
    path.write_text(json.dumps(metrics))
"""


def write_project(folder: Path) -> None:
    """Write the project's files into a folder, without results."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text("[core]\n    analytics = false\n")
    (folder / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
    (folder / ".gitignore").write_text("/models/\n/data/raw/\n/.prunelab/\n")
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / "make.py").write_text(MAKE)
    shutil.copy(PROJECT / "params.yaml", folder)
    edit_params(folder / "params.yaml", grid__methods=["l1_channel"], grid__ratios=[0.5])
    for name, accuracy in (("base", 0.95), ("focus", 0.9)):
        metrics = measured_metrics(accuracy, 0.95)
        write_json(folder / f"{name}.json", metrics)
    write_study(folder / "studies", TINY)


def repository_at(folder: Path) -> Repository:
    """Make a repository whose settings name an author."""
    folder.mkdir(parents=True, exist_ok=True)
    repository = Repository(folder)
    _name_author(repository)
    return repository


def _name_author(repository: Repository) -> None:
    repository.git("config", "user.name", "Test")
    repository.git("config", "user.email", "test@example.com")


def at_the_top(base: Path) -> Path:
    """The project is a repository."""
    write_project(base / "project")
    repository_at(base / "project").commit("Start")
    return base / "project"


def in_a_subfolder(base: Path) -> Path:
    """The project is a folder of a repository, which has files of the same names at its top."""
    repository = repository_at(base / "laboratory")
    for name in ("dvc.yaml", "params.yaml", "metrics/focus.json", "plots/focus.png"):
        (repository.folder / name).parent.mkdir(exist_ok=True)
        (repository.folder / name).write_text("not of the project")
    write_project(repository.folder / SUBFOLDER)
    repository.commit("Start")
    return repository.folder / SUBFOLDER


def in_a_submodule(base: Path) -> Path:
    """The project is a submodule of another repository."""
    origin = at_the_top(base / "origin")
    repository = repository_at(base / "laboratory")
    repository.git(
        *("-c", "protocol.file.allow=always", "submodule", "--quiet", "add"),
        *(str(origin), "research/pruning"),
    )
    repository.commit("Start")

    module = repository.folder / "research/pruning"
    _name_author(Repository.existing(module))
    return module


def in_a_worktree(base: Path) -> Path:
    """The project is a linked worktree of a repository, on a branch of its own."""
    main = Repository.existing(at_the_top(base / "main"))
    main.git("worktree", "add", "--quiet", "-b", "study", str(base / "linked"))
    return base / "linked"


def in_a_shallow_clone(base: Path) -> Path:
    """The project is a clone of the last commit alone."""
    origin = Repository.existing(at_the_top(base / "origin"))
    (origin.folder / "README.md").touch()
    origin.commit("Words")

    origin.git("clone", "--quiet", "--depth=1", origin.folder.as_uri(), str(base / "shallow"))
    _name_author(Repository.existing(base / "shallow"))
    return base / "shallow"


LAYOUTS = (at_the_top, in_a_subfolder, in_a_submodule, in_a_worktree, in_a_shallow_clone)
