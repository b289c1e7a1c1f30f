"""Stages of the pipeline run as processes, without DVC."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prunelab.warm.address import ADDRESS_VARIABLE
from prunelab.warm.control import loaded_process, process_id


def command(stage: str, *args: str) -> list[str]:
    return [sys.executable, "-m", "prunelab.stages", stage, *args]


def stage(name: str, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **environment}
    return subprocess.run(
        command(name, *args), capture_output=True, text=True, env=environment, check=False
    )


@contextmanager
def loaded_stages(folder: Path) -> Iterator[dict[str, str]]:
    """The variables by which stages find a process of our own that has the packages loaded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(ADDRESS_VARIABLE, raising=False)
        with loaded_process(folder) as variables:
            wait_for_socket(Path(variables[ADDRESS_VARIABLE]))
            yield variables


def wait_for_socket(address: Path) -> None:
    """A stage that comes earlier starts by itself."""
    deadline = time.monotonic() + 30
    while process_id(address) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)


TRAIN = ("train_base", "data/prepared", "models/base", "models/history/base.json")


def files(folder: Path) -> dict[str, bytes]:
    """The content of all files of a folder, by their path within it."""
    contents = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            contents[str(path.relative_to(folder))] = path.read_bytes()
    return contents
