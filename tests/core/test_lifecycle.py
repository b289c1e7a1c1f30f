"""The process of a stage: when it collects garbage, and how its threads wait."""

import json
import os
import platform
import re
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers.params import PROJECT

from prunelab.core.lifecycle import bits_variables, describe_exit

SHOW_HELP = """
import atexit, gc, json, runpy, sys

sys.argv = sys.argv[1:]
atexit.register(lambda: print(json.dumps([gc.isenabled(), gc.get_freeze_count()])))
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def collections_of(module: str) -> tuple[bool, int]:
    """Whether a module run as a command ends with collections on, and what they leave out."""
    process = subprocess.run(
        [sys.executable, "-c", SHOW_HELP, module, "--help"],
        env=os.environ | {"PYTHONPATH": str(PROJECT / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    enabled, frozen = json.loads(process.stdout.splitlines()[-1])
    return enabled, frozen


def test_a_stage_collects_garbage_but_not_among_its_imports():
    enabled, frozen = collections_of("prunelab.stages.prepare")

    assert enabled
    assert frozen > 10_000


def test_a_command_collects_garbage_among_everything():
    assert collections_of("prunelab") == (True, 0)


USES_TORCH = "from prunelab.commands.common import prepare_process; prepare_process(); import torch"
STARTS = {
    "a stage typed by hand": ["-m", "prunelab.stages", "evaluate", "--help"],
    "its module": ["-m", "prunelab.stages.prune", "--help"],
    "a command": ["-c", USES_TORCH],
}


LOADS_OPENMP = """
import ctypes, sys
from prunelab.commands.common import prepare_process

prepare_process()
ctypes.CDLL(sys.argv[1])
"""


def openmp_of_torch() -> str:
    """The library of OpenMP that comes with torch, which loads in a moment."""
    (folder,) = find_spec("torch").submodule_search_locations
    libraries = list(Path(folder, "lib").glob("libgomp*"))
    if not libraries:
        pytest.skip("this torch has no OpenMP of GNU's")
    return str(libraries[0])


def wait_policy(command: list[str], **chosen: str) -> str:
    """How threads of OpenMP wait in a process, as OpenMP itself says once torch has loaded it."""
    variables = {**os.environ, "PYTHONPATH": str(PROJECT / "src"), "PRUNELAB_WARM": "off"}
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        variables.pop(name, None)

    process = subprocess.run(
        [sys.executable, *command],
        env=variables | {"OMP_DISPLAY_ENV": "verbose"} | chosen,
        capture_output=True,
        text=True,
        check=True,
    )

    shown = dict(re.findall(r"(OMP_WAIT_POLICY|GOMP_SPINCOUNT) = '(\w+)'", process.stderr))
    if not shown:
        pytest.skip("this OpenMP is not GNU's")
    return f"{shown['OMP_WAIT_POLICY']} {shown['GOMP_SPINCOUNT']}"


@pytest.mark.parametrize("start", STARTS)
def test_waiting_threads_sleep_in_every_process_that_computes(start):
    assert wait_policy(STARTS[start]) == "PASSIVE 0"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86-64 has portable bits")
@pytest.mark.parametrize("start", ["a command", "its module"])
@pytest.mark.parametrize("chosen", [{}, {"NPY_DISABLE_CPU_FEATURES": "", "OPENBLAS_CORETYPE": ""}])
def test_numpy_has_portable_bits_in_every_process_whatever_was_chosen(start, chosen):
    show = (
        "; from prunelab.runtime import portable as p; print(p._numpy_obeys(), p._openblas_obeys())"
    )
    command = ["-c", USES_TORCH + show]
    if start == "its module":
        command = ["-c", f"from prunelab.core import lifecycle as l; l.setup_process(){show}"]

    variables = {**os.environ, "PYTHONPATH": str(PROJECT / "src")}
    for name in bits_variables():
        variables.pop(name, None)
    shown = subprocess.check_output(
        [sys.executable, *command], env=variables | chosen, text=True
    ).split()
    assert shown == ["True", "True"]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86-64 has portable bits")
@pytest.mark.parametrize(
    ("version", "name"), [("1.26.4", "AVX512_SKX"), ("2.3.5", "AVX512_SKX"), ("2.5.0", "X86_V4")]
)
def test_numpy_of_another_version_is_given_the_names_that_it_knows(tmp_path, version, name):
    package = tmp_path / "numpy"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "version.py").write_text(f'"""Versions."""\nversion = "{version}"\n')

    code = "from prunelab.core import lifecycle as l; print(l.bits_variables()[l.NUMPY_VARIABLE])"
    paths = f"{tmp_path}{os.pathsep}{PROJECT / 'src'}"
    names = subprocess.check_output(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": paths}, text=True
    ).split()
    assert name in names
    assert ("X86_V4" in names) == (name == "X86_V4")


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"), ({"GOMP_SPINCOUNT": "1000"}, "PASSIVE 1000")],
)
def test_another_choice_of_how_to_wait_stays(chosen, expected):
    assert wait_policy(["-c", LOADS_OPENMP, openmp_of_torch()], **chosen).startswith(expected)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (3, "ended with exit code 3"),
        (-signal.SIGKILL, "was killed by SIGKILL"),
        (-(signal.SIGRTMIN + 6), f"was killed by signal {signal.SIGRTMIN + 6}"),
    ],
)
def test_an_exit_is_described_whatever_the_signal(code, sentence):
    assert describe_exit(code) == sentence
