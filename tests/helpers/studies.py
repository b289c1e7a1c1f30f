"""A small study in a repository of its own, with results."""

import hashlib
import json
import shutil
from copy import deepcopy
from pathlib import Path

from ruamel.yaml import YAML

from helpers.params import PROJECT
from prunelab.commands.studies.study_file import Study
from prunelab.core.metrics_files import OTHERS, join_metrics, split_metrics
from prunelab.project.experiments import experiment_name, stage_closure
from prunelab.project.git import git

SHIPPED = PROJECT / "params.yaml"
PIPELINE = stage_closure((PROJECT / "dvc.yaml").read_text())

TINY = {
    "title": "A tiny study",
    "source": {"what": "Nothing", "by": "nobody", "link": None},
    "network": "ResNet-8",
    "data": "digits",
    "honest": ["Not a study at all."],
    "params": {"seeds": [0], "train": {"epochs": 1}, "finetune.epochs": 1},
    "quick": {"note": "less of it", "params": {"prune.floor": 0.2}, "settings": ["l1_channel-0.5"]},
    "settings": [
        {"method": "l1_channel", "ratio": 0.5},
        {"method": "random_unstructured", "ratio": 0.5},
    ],
    "published": {
        "dense": {"accuracy_percent": 90.5},
        "rows": [
            {
                "setting": "l1_channel-0.5",
                "label": "half",
                "values": {"accuracy_percent": 80.25, "images_per_s": 12},
            },
            {
                "setting": None,
                "label": "theirs",
                "source": "elsewhere",
                "values": {"accuracy_percent": 81},
            },
        ],
    },
}


def write_study(folder: Path, content: dict, name: str = "tiny") -> Path:
    """Write a study file into a folder and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    YAML().dump(content, folder / f"{name}.yaml")
    return folder


def tiny_study(**changes: object) -> Study:
    """The tiny study with some of its keys replaced."""
    return Study.model_validate(deepcopy(TINY) | changes)


def measured_metrics(accuracy: float, dense: float) -> dict:
    """The metrics of this project's focus with other accuracies."""
    headline = json.loads((PROJECT / "metrics/focus.json").read_text())
    details = json.loads((PROJECT / "metrics/details/focus.json").read_text())
    return join_metrics(headline, details) | {
        "accuracy": accuracy,
        "accuracy_ci95": 0.01,
        "accuracy_drop": round(dense - accuracy, 6),
        "accuracy_drop_ci95": 0.012,
    }


def record(accuracy: float = 0.85, dense: float = 0.95, **changes: object) -> dict:
    """The result of one setting, as tables take it."""
    return {
        "metrics": measured_metrics(accuracy, dense),
        "dense": measured_metrics(dense, dense),
        "parameters": {},
        "current": True,
        **changes,
    }


def copy_into(folder: Path, name: str) -> None:
    """Copy a file of the project, or a folder with all its source files."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    if (PROJECT / name).is_dir():
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(PROJECT / name, folder / name)


class StudyRepository:
    """A Git repository with the project's pipeline and handmade experiments, as DVC stores them."""

    def __init__(self, folder: Path):
        self.folder = folder
        git(folder, "init", "--quiet")
        git(folder, "config", "user.name", "Test")
        git(folder, "config", "user.email", "test@example.com")
        for name in ("dvc.yaml", "params.yaml", *PIPELINE.files):
            copy_into(folder, name)
        self.commit("Start")

    def head(self) -> str:
        return git(self.folder, "rev-parse", "HEAD").strip()

    def commit(self, message: str) -> str:
        git(self.folder, "add", "--all")
        git(self.folder, "commit", "--quiet", "--message", message)
        return self.head()

    def commit_readme(self) -> None:
        """Commit a change on which no result depends."""
        (self.folder / "README.md").write_text("words")
        self.commit("Words")

    def edit_code(self) -> str:
        """Change a file on which results depend, without a commit; return its name."""
        name = "src/prunelab/training/trainer.py"
        with (self.folder / name).open("a") as file:
            file.write("# another line\n")
        return name

    def commit_code(self) -> None:
        self.edit_code()
        self.commit("Code")

    def experiment(
        self,
        label: str,
        params: dict,
        accuracy: float,
        environment: bool = True,
        in_one_file: bool = False,
    ) -> None:
        """Store the result of a setting as an experiment derived from HEAD.

        Without `environment`, the note on the environment belongs to other metrics. `in_one_file`
        stores metrics as they were before they were divided.
        """
        baseline = self.head()
        YAML().dump(params, self.folder / "params.yaml")
        (self.folder / "metrics/environment").mkdir(parents=True, exist_ok=True)
        content = record(accuracy)
        metrics_file = self.folder / "metrics/focus.json"
        self._write_metrics("focus", content["metrics"], in_one_file)
        self._write_metrics("base", content["dense"], in_one_file)

        metrics_hash = hashlib.sha256(metrics_file.read_bytes()).hexdigest()
        note = {"device": "a test", "metrics_sha256": metrics_hash if environment else "other"}
        (self.folder / "metrics/environment/focus.json").write_text(json.dumps(note))

        commit = self.commit("An experiment")
        name = experiment_name("tiny", label, PIPELINE.select(params), {})
        git(self.folder, "update-ref", f"refs/exps/{baseline[:2]}/{baseline[2:]}/{name}", commit)
        git(self.folder, "reset", "--quiet", "--hard", baseline)

    def _write_metrics(self, name: str, metrics: dict, in_one_file: bool) -> None:
        headline, others = metrics, None
        if not in_one_file:
            headline, others = split_metrics(metrics)

        (self.folder / "metrics/details").mkdir(parents=True, exist_ok=True)
        (self.folder / f"metrics/{name}.json").write_text(json.dumps(headline))
        details = {OTHERS: others, "layers": []}
        (self.folder / f"metrics/details/{name}.json").write_text(json.dumps(details))
