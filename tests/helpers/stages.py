"""Stages of the pipeline run as processes or in this one, without DVC."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path

import pytest
from typer.testing import CliRunner

from prunelab.cli import app
from prunelab.stages import entry
from prunelab.warm.address import ADDRESS_VARIABLE
from prunelab.warm.control import loaded_process, process_id


def command(stage: str, *args: str) -> list[str]:
    return [sys.executable, "-m", "prunelab.stages", stage, *args]


def stage(name: str, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **environment}
    return subprocess.run(
        command(name, *args), capture_output=True, text=True, env=environment, check=False
    )


def stage_here(name: str, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A stage in this process: its lines and exit status, without a start of Python and torch."""
    output, errors = StringIO(), StringIO()
    status = 0
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(output),
        redirect_stderr(errors),
    ):
        patch.setattr(sys, "argv", [name, *args])
        patch.setattr(entry, "_check_lines", _check_here)
        for variable, value in environment.items():
            patch.setenv(variable, value)
        try:
            entry.run(import_module(f"prunelab.stages.{name}").main)
        except SystemExit as end:
            status = int(end.code or 0)
    return subprocess.CompletedProcess(
        [name, *args], status, stdout=output.getvalue(), stderr=errors.getvalue()
    )


def _check_here() -> list[str]:
    """The problems that `prunelab check` finds, which stages run as a process of its own."""
    check = CliRunner().invoke(app, ["check"])
    if check.exit_code != 1:
        return []
    return check.stderr.splitlines()


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
