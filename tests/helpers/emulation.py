"""Machines of other kinds: processors, by the user-mode emulation of QEMU, and C libraries."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

EMULATOR = "qemu-x86_64"


def require_emulator() -> None:
    """Skip a test where there is no emulator."""
    if shutil.which(EMULATOR) is None:
        pytest.skip(f"{EMULATOR} is missing (Debian and Ubuntu: apt-get install qemu-user)")


def another_c_library(folder: Path) -> Path:
    """Compile mathematical functions that round otherwise; a test is skipped without a compiler.

    Programs that are started with LD_PRELOAD set to what is returned call them.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler (Debian and Ubuntu: apt-get install gcc libc6-dev)")

    library = folder / "neighbour_libm.so"
    source = Path(__file__).parent / "neighbour_libm.c"
    flags = ("-O1", "-fno-builtin", "-shared", "-fPIC")
    subprocess.run([compiler, *flags, source, "-o", library, "-ldl", "-lm"], check=True)
    return library


def other_locale(folder: Path) -> dict[str, str]:
    """The variables of a locale with decimal commas and its own i; C, where none can be made."""
    localedef = shutil.which("localedef")
    if localedef is not None:
        command = [localedef, "-i", "tr_TR", "-f", "UTF-8", folder / "tr_TR.UTF-8"]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return {"LOCPATH": str(folder), "LC_ALL": "tr_TR.UTF-8"}
    return {"LC_ALL": "C"}


def run_module(
    cpu: str | None, module: str, *arguments: str | Path, variables: Mapping[str, str] | None = None
) -> str:
    """What `python -m MODULE ARGUMENTS` prints on a processor, such as Haswell; None is this one.

    It has one core's threads: an emulator that starts several takes longer. `variables` are set
    beside those of this process.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    if cpu is not None:
        command = [EMULATOR, "-cpu", cpu, *command]

    paths = os.pathsep.join(path for path in sys.path if path)
    process = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | dict(variables or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, f"on {cpu}: {process.stderr[-3000:]}"
    return process.stdout
