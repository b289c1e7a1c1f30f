"""Stages of the pipeline run as processes, without DVC."""

import os
import subprocess
import sys
from pathlib import Path


def command(stage: str, *args: str) -> list[str]:
    return [sys.executable, "-m", "prunelab.stages", stage, *args]


def stage(name: str, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **environment}
    return subprocess.run(
        command(name, *args), capture_output=True, text=True, env=environment, check=False
    )


TRAIN = ("train_base", "data/prepared", "models/base", "models/history/base.json")


def files(folder: Path) -> dict[str, bytes]:
    """The content of all files of a folder, by their path within it."""
    contents = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            contents[str(path.relative_to(folder))] = path.read_bytes()
    return contents
