"""A small study in a repository of its own, with results."""

import hashlib
import json
import shutil
from pathlib import Path

from ruamel.yaml import YAML

from helpers.params import PROJECT
from prunelab.project.experiments import chain, experiment_name
from prunelab.project.git import git

SHIPPED = PROJECT / "params.yaml"


PIPELINE = chain((PROJECT / "dvc.yaml").read_text())


def measured_metrics(accuracy: float, dense: float) -> dict:
    return json.loads((PROJECT / "metrics/focus.json").read_text()) | {
        "accuracy": accuracy,
        "accuracy_ci95": 0.01,
        "accuracy_drop": round(dense - accuracy, 6),
        "accuracy_drop_ci95": 0.012,
    }


def record(accuracy: float = 0.85, dense: float = 0.95, **changes: object) -> dict:
    base = measured_metrics(dense, dense)
    return {"metrics": measured_metrics(accuracy, dense), "dense": base, "current": True, **changes}


def copy_into(folder: Path, name: str) -> None:
    """Copy a file of the project, or a folder with all its source files."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    if (PROJECT / name).is_dir():
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(PROJECT / name, folder / name)


class StudyRepository:
    """A Git repository with the project's pipeline and experiments made by hand, as DVC stores them."""

    def __init__(self, folder: Path):
        self.folder = folder
        git(folder, "init", "--quiet")
        for name, value in (("user.name", "Test"), ("user.email", "test@example.com")):
            git(folder, "config", name, value)
        for name in ("dvc.yaml", "params.yaml", *PIPELINE.files):
            copy_into(folder, name)
        self.commit("Start")

    def commit(self, message: str) -> str:
        git(self.folder, "add", "--all")
        git(self.folder, "commit", "--quiet", "--message", message)
        return git(self.folder, "rev-parse", "HEAD").strip()

    def experiment(
        self, label: str, params: dict, accuracy: float, environment: bool = True
    ) -> None:
        baseline = git(self.folder, "rev-parse", "HEAD").strip()
        YAML().dump(params, self.folder / "params.yaml")
        (self.folder / "metrics/environment").mkdir(parents=True, exist_ok=True)
        content = record(accuracy)
        for name, key in (("focus", "metrics"), ("base", "dense")):
            (self.folder / f"metrics/{name}.json").write_text(json.dumps(content[key]))
        told = hashlib.sha256((self.folder / "metrics/focus.json").read_bytes()).hexdigest()
        noted = {"device": "a test", "metrics_sha256": told if environment else "other"}
        (self.folder / "metrics/environment/focus.json").write_text(json.dumps(noted))
        made = self.commit("An experiment")
        name = experiment_name("tiny", label, PIPELINE.used(params), {})
        git(self.folder, "update-ref", f"refs/exps/{baseline[:2]}/{baseline[2:]}/{name}", made)
        git(self.folder, "reset", "--quiet", "--hard", baseline)
