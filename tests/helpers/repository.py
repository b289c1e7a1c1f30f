"""Git repositories and clones of this project in temporary folders, and what DVC says in them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

from helpers.params import PROJECT, edit_params


class Repository:
    """A Git repository in a folder, with an identity of its own and nobody's settings."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.git("init", "-q", "-b", "main")

    def git(self, *arguments: str) -> str:
        identity = ("-c", "user.name=Test", "-c", "user.email=test@example.com")
        environment = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull}
        return subprocess.run(
            ["git", *identity, *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    def commit(self, message: str) -> str:
        self.git("add", "--all")
        self.git("commit", "-qm", message)
        return self.git("rev-parse", "HEAD")


STAGES = YAML(typ="safe").load(PROJECT / "dvc.yaml")["stages"]


class Clone:
    """A copy of what Git would clone, with a tiny configuration, run by the environment's own DVC."""

    def __init__(self, folder: Path):
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=PROJECT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        for name in filter(None, listed.stdout.split("\0")):
            if (PROJECT / name).is_file() and not name.startswith(
                ("metrics/", "plots/", "dvc.lock")
            ):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(PROJECT / name, folder / name)
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "GIT_CONFIG_GLOBAL": os.devnull,
        }
        for variable in ("PYTHONPATH", "DVC_STAGE", "DVC_ROOT"):
            self.environment.pop(variable, None)
        self.run("git", "init", "-q")
        self.run("git", "config", "user.name", "Test")
        self.run("git", "config", "user.email", "test@example.com")

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
        return done

    def commit(self, message: str) -> None:
        self.run("git", "add", "--all")
        self.run("git", "commit", "-qm", message)

    def metrics(self, name: str) -> dict:
        return json.loads((self.folder / "metrics" / name).read_text())


def tiny_clone(folder: Path) -> Clone:
    """One seed of two methods at one ratio, a few epochs, committed and not yet run."""
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
    return re.findall(r"Running stage '([^']+)'", output)


MEASURED_BY_CLOCK = ("metrics/speed", "plots/report.html")


def outputs(folder: Path) -> dict[str, str]:
    """Every output in dvc.lock with its hash, but those that hold times."""
    stages = YAML(typ="safe").load(folder / "dvc.lock")["stages"].values()
    outs = [out for stage in stages for out in stage["outs"]]
    return {
        out["path"]: out["md5"] for out in outs if not out["path"].startswith(MEASURED_BY_CLOCK)
    }
