"""Git repositories and clones of this project in temporary folders, and what DVC prints in them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from ruamel.yaml import YAML

from helpers.params import PROJECT, edit_params
from prunelab.core.metrics_files import join_metrics

STAGES = YAML(typ="safe").load(PROJECT / "dvc.yaml")["stages"]
RESULTS = ("metrics/", "plots/", "dvc.lock")
MEASURED_BY_CLOCK = ("metrics/speed", "plots/report.html")


class Repository:
    """A Git repository with an identity of its own, without the user's settings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.git("init", "-q", "-b", "main")

    @classmethod
    def existing(cls, folder: Path) -> "Repository":
        """The repository that `folder` is in."""
        repository = cls.__new__(cls)
        repository.folder = folder
        return repository

    def git(self, *arguments: str) -> str:
        identity = ("-c", "user.name=Test", "-c", "user.email=test@example.com")
        process = subprocess.run(
            ["git", *identity, *arguments],
            cwd=self.folder,
            env=os.environ | {"GIT_CONFIG_GLOBAL": os.devnull},
            capture_output=True,
            text=True,
            check=True,
        )
        return process.stdout.strip()

    def commit(self, message: str) -> str:
        """Commit all files and return the commit."""
        self.git("add", "--all")
        self.git("commit", "-qm", message)
        return self.git("rev-parse", "HEAD")


class Clone:
    """A copy of the project's files without results, run by this environment's DVC."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in project_files():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, folder / name)

        self.environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "GIT_CONFIG_GLOBAL": os.devnull,
        }
        for variable in ("PYTHONPATH", "DVC_STAGE", "DVC_ROOT"):
            self.environment.pop(variable, None)

        self.run("git", "init", "-q")
        self.run("git", "config", "user.name", "Test")
        self.run("git", "config", "user.email", "test@example.com")

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        process = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if check:
            output = f"{command}:\n{process.stdout}\n{process.stderr}"
            assert process.returncode == 0, output
        return process

    def commit(self, message: str) -> None:
        self.run("git", "add", "--all")
        self.run("git", "commit", "-qm", message)

    def metrics(self, name: str) -> dict:
        """The content of a file in metrics/."""
        return json.loads((self.folder / "metrics" / name).read_text())

    def all_metrics(self, name: str) -> dict:
        """The metrics of a configuration, those in its details included."""
        return join_metrics(self.metrics(name), self.metrics(f"details/{name}"))


def project_files() -> list[str]:
    """The files of the project that Git would not ignore, without its results.

    The project may have been downloaded without a repository.
    """
    with TemporaryDirectory() as folder:
        subprocess.run(["git", "init", "-q", "--bare", folder], check=True)
        listing = subprocess.run(
            ["git", "ls-files", "-z", "--others", "--exclude-standard"],
            cwd=PROJECT,
            env=os.environ | {"GIT_DIR": folder, "GIT_WORK_TREE": str(PROJECT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    return [name for name in listing.split("\0") if name and not name.startswith(RESULTS)]


def tiny_clone(folder: Path) -> Clone:
    """One seed of two methods at one ratio, a few epochs; committed and not run yet."""
    clone = Clone(folder)
    edit_params(
        clone.folder / "params.yaml",
        seeds=[0],
        grid__methods=["l1_unstructured", "l1_channel"],
        grid__ratios=[0.5],
        train__epochs=2,
        finetune__epochs=1,
        benchmark__rounds=2,
        benchmark__seconds=0.02,
    )
    clone.commit("Tiny configuration")
    return clone


def stages_run(output: str) -> list[str]:
    """The stages that ran, from what DVC or `prunelab repro` printed."""
    names = re.finditer(r"(?m)Running stage '([^']+)'|^\[\d+/\d+\] (\S+): done", output)
    return [match[1] or match[2] for match in names]


def outputs(folder: Path) -> dict[str, str]:
    """The hash of every output in dvc.lock, by path, without outputs that hold times."""
    hashes = {}
    for stage in YAML(typ="safe").load(folder / "dvc.lock")["stages"].values():
        for output in stage["outs"]:
            if not output["path"].startswith(MEASURED_BY_CLOCK):
                hashes[output["path"]] = output["md5"]
    return hashes
