"""The examination behind `prunelab doctor`: a finding for each thing that a study needs.

It reads only, and it imports neither torch nor DVC.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import psutil

from prunelab.benchmarking.machine_load import machine_load
from prunelab.commands.common import core_count
from prunelab.commands.gpus import devices
from prunelab.core.errors import InputError
from prunelab.core.processor import has_portable_bits, is_without_avx2
from prunelab.core.text import name_list
from prunelab.project.git import FIRST_COMMIT, IDENTITY, git

MIN_PYTHON = (3, 11)
GB = 10**9
MIN_DISK_GB = 2  # the default study's cache, networks and logs, with room
MIN_MEMORY_GB = 2  # two stages of the default study at a time, with room
REQUIREMENTS = Path("requirements.lock")
LOCKED = re.compile(r"(?m)^([\w.-]+)==([^\s;]+)(?: ; (.*?))?(?: \\)?$")


class Verdict(StrEnum):
    ok = "ok"
    look = "look"  # it works, slower or with other bits
    stop = "STOP"  # a study would not run


@dataclass(frozen=True)
class Finding:
    """What was looked at and, unless it is as it should be, what to do."""

    verdict: Verdict
    text: str
    remedy: str = ""


def examine(root: Path) -> list[Finding]:
    """Return all findings about this machine, and about the project in the folder `root`."""
    looks: list[Callable[[Path], Iterator[Finding]]] = [
        _python,
        _packages,
        _project,
        _git,
        _processor,
        _memory,
        _disk,
        _gpus,
        _load,
    ]
    return [finding for look in looks for finding in look(root)]


def _python(_: Path) -> Iterator[Finding]:
    text = f"Python {platform.python_version()} at {sys.executable}"
    if sys.version_info < MIN_PYTHON:
        wanted = ".".join(map(str, MIN_PYTHON))
        yield Finding(Verdict.stop, text, f"install Python {wanted} or newer, then: make setup")
    else:
        yield Finding(Verdict.ok, text)


def _packages(root: Path) -> Iterator[Finding]:
    """Whether the packages that prunelab needs are those of the lock."""
    remedy = "make setup"
    try:
        needed = {
            re.split(r"[^\w.-]", line)[0] for line in requires("prunelab") or [] if ";" not in line
        }
    except PackageNotFoundError:
        yield Finding(Verdict.stop, "prunelab is not installed", remedy)
        return

    locked = _locked_versions(root / REQUIREMENTS)
    missing, others = [], []
    for name in sorted(needed):
        try:
            installed = version(name)
        except PackageNotFoundError:
            missing.append(name)
            continue
        if locked and installed.partition("+")[0] not in locked.get(_normalised(name), {installed}):
            others.append(f"{name} {installed}")

    if missing:
        yield Finding(Verdict.stop, f"packages that are missing: {name_list(missing)}", remedy)
    elif others:
        text = f"packages other than {REQUIREMENTS} names: {name_list(others)}"
        yield Finding(
            Verdict.look, text, f"the last bits may differ; {remedy} installs the locked ones"
        )
    elif locked:
        yield Finding(Verdict.ok, f"{len(needed)} packages, with the versions of {REQUIREMENTS}")
    else:
        text = f"{len(needed)} packages; there is no {REQUIREMENTS} here to compare versions with"
        yield Finding(Verdict.ok, text)


def _locked_versions(lock: Path) -> dict[str, set[str]]:
    """The versions of every package in a lock file; it may hold several, for several Pythons."""
    versions: dict[str, set[str]] = {}
    if lock.exists():
        for name, number, _ in LOCKED.findall(lock.read_text(encoding="utf-8")):
            versions.setdefault(_normalised(name), set()).add(number.partition("+")[0])
    return versions


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _project(root: Path) -> Iterator[Finding]:
    if (root / "dvc.yaml").exists() and (root / "params.yaml").exists():
        yield Finding(Verdict.ok, f"{root} is a study")
    else:
        text = f"{root} has no dvc.yaml and params.yaml"
        yield Finding(
            Verdict.stop,
            text,
            "go to the top folder of the project, or make one: prunelab new --images FOLDER",
        )


def _git(root: Path) -> Iterator[Finding]:
    if shutil.which("git") is None:
        yield Finding(Verdict.stop, "Git is not installed", "install git")
        return
    try:
        git(root, "rev-parse", "--show-toplevel")
    except InputError as error:
        remedy = f"experiments, compare and verify need a repository: {FIRST_COMMIT}"
        _, found, command = str(error).rpartition("git config --global --add safe.directory")
        if found:
            remedy = f"{found}{command}"  # of the top folder, which may lie above this one
        yield Finding(Verdict.look, f"no Git repository that may be read: {error}", remedy)
        return

    try:
        identity = git(root, "var", "GIT_COMMITTER_IDENT").rpartition(" ")[0].rpartition(" ")[0]
    except InputError:
        remedy = " && ".join(IDENTITY)
        yield Finding(Verdict.look, "Git does not know who commits", remedy)
    else:
        yield Finding(Verdict.ok, f"Git commits as {identity}")


def _processor(_: Path) -> Iterator[Finding]:
    usable = core_count()
    text = f"{platform.machine()}, {usable} of {os.cpu_count()} cores may be used"
    if not has_portable_bits():
        yield Finding(Verdict.look, text, "results repeat here, but x86-64 gives other last bits")
    elif is_without_avx2():
        remedy = "portable bits need it: set runtime.bits to native, or use another machine"
        yield Finding(Verdict.look, f"{text}, no AVX2", remedy)
    else:
        yield Finding(Verdict.ok, text)


def _memory(_: Path) -> Iterator[Finding]:
    free = psutil.virtual_memory().available
    text = f"{free / GB:.1f} GB of memory free"
    if free < MIN_MEMORY_GB * GB:
        yield Finding(Verdict.look, text, "end other programs, or use make repro JOBS=1")
    else:
        yield Finding(Verdict.ok, text)


def _disk(root: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(root).free
    text = f"{free / GB:.1f} GB of disk free"
    if free < MIN_DISK_GB * GB:
        remedy = f"free {MIN_DISK_GB} GB, for instance by: dvc gc --workspace"
        yield Finding(Verdict.look, text, remedy)
    elif not os.access(root, os.W_OK):
        yield Finding(
            Verdict.stop, f"{root} may not be written", "copy the project to a place of yours"
        )
    else:
        yield Finding(Verdict.ok, text)


def _gpus(_: Path) -> Iterator[Finding]:
    if shutil.which("nvidia-smi") is None:
        yield Finding(Verdict.ok, "no NVIDIA driver: stages compute on the CPU")
        return

    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    process = subprocess.run(query, capture_output=True, text=True, check=False)
    if process.returncode:
        message = " ".join((process.stdout + process.stderr).split())
        yield Finding(
            Verdict.look, f"nvidia-smi: {message}", "stages compute on the CPU until it works"
        )
        return
    for line in process.stdout.splitlines():
        yield Finding(Verdict.ok, f"GPU {line}")
    if not devices():
        yield Finding(Verdict.look, "no GPU may be used", "look at CUDA_VISIBLE_DEVICES")


def _load(_: Path) -> Iterator[Finding]:
    busy = machine_load()["busy"]
    if busy:
        text = f"other programs compute: {name_list(busy)}"
        yield Finding(Verdict.look, text, "results stay the same; times measured now mean little")
    else:
        yield Finding(Verdict.ok, "nothing else computes")
