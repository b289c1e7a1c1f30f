"""Processors of other kinds, by the user-mode emulation of QEMU."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EMULATOR = "qemu-x86_64"


def require_emulator() -> None:
    """Skip a test where there is no emulator."""
    if shutil.which(EMULATOR) is None:
        pytest.skip(f"{EMULATOR} is missing (Debian and Ubuntu: apt-get install qemu-user)")


def run_module(cpu: str | None, module: str, *arguments: str | Path) -> str:
    """What `python -m MODULE ARGUMENTS` prints on a processor, such as Haswell; None is this one.

    It has one core's threads: an emulator that starts several takes longer.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    if cpu is not None:
        command = [EMULATOR, "-cpu", cpu, *command]

    paths = os.pathsep.join(path for path in sys.path if path)
    process = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, f"on {cpu}: {process.stderr[-3000:]}"
    return process.stdout
