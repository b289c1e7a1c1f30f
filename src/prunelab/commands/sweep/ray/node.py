"""The part of a Ray task that runs before this project is on the node.

It clones the commit and starts the job in a process of its own. Ray sends this module to the nodes
by value, so a node needs the Python environment and no prunelab: import the standard library only.
"""

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LOG_TAIL_LINES = 15


def run_job(job_spec: dict[str, Any]) -> tuple[str, str | None]:
    """Run one job; return the node's name, and the end of the output if the job failed."""
    node = platform.node()
    problems = prepare(job_spec)
    if problems:
        return node, "\n".join(problems)

    output, status = _run_in_process(job_spec)
    if status == 0:
        return node, None
    return node, "\n".join(output[-LOG_TAIL_LINES:]) or f"ended with {status}"


def _run_in_process(job_spec: dict[str, Any]) -> tuple[list[str], int]:
    """Run the job in a process of its own; return its lines and its status."""
    folder = clone_folder(job_spec) / job_spec["prefix"]
    process = subprocess.Popen(
        [sys.executable, "-m", "prunelab.commands.sweep.ray.node_job"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "src"), "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )

    output = []
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        # Standard input stays open. Its end tells the process that this task was killed.
        process.stdin.write(json.dumps(job_spec) + "\n")
        process.stdin.flush()

        for line in process.stdout:
            print(line, end="", flush=True)
            output.append(line.rstrip())
        status = process.wait()
    return output, status


def prepare(sweep_spec: dict[str, Any]) -> list[str]:
    """Compare versions and clone the commit on this node; return the problems."""
    node = platform.node()
    expected = sweep_spec["versions"]
    installed = versions(list(expected))

    problems = []
    for name, expected_version in expected.items():
        if installed.get(name) != expected_version:
            problems.append(
                f"{node}: {name} is {installed.get(name) or 'not installed'}, but "
                f"{expected_version} where the sweep was started. Use the same lock file or image "
                "on both."
            )
    if problems:
        return problems

    try:
        clone(sweep_spec)
    except (OSError, subprocess.CalledProcessError) as error:
        message = getattr(error, "stderr", None) or str(error)
        return [f"{node}: {sweep_spec['url']} cannot be cloned: {' '.join(message.split())}"]
    return []


def versions(packages: list[str]) -> dict[str, str]:
    """Return the versions of Python and of the packages that are installed.

    What tells two builds of a version apart, such as the `+cpu` of 2.9.0+cpu, is left out.
    """
    installed = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in packages:
        try:
            installed.setdefault(name, version(name).partition("+")[0])
        except PackageNotFoundError:
            continue
    return installed


def clone_folder(sweep_spec: dict[str, Any]) -> Path:
    """Return the folder of this node's clone of the commit."""
    scratch = os.environ.get("PRUNELAB_SCRATCH")
    if not scratch:
        scratch = f"{tempfile.gettempdir()}/prunelab-{os.getuid()}"
    url, revision = str(sweep_spec["url"]), str(sweep_spec["revision"])
    url_hash = hashlib.sha256(url.encode()).hexdigest()
    return Path(scratch) / url_hash[:12] / revision[:12]


def cache_folder(sweep_spec: dict[str, Any]) -> Path:
    """Return the folder of DVC's cache, which all commits share, beside their clones."""
    return clone_folder(sweep_spec).parent / "cache"


def clone(sweep_spec: dict[str, Any]) -> None:
    """Clone the commit once per node; a task that comes meanwhile waits for the clone."""
    folder = clone_folder(sweep_spec)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _clone_into(folder, sweep_spec)


def _clone_into(folder: Path, sweep_spec: dict[str, Any]) -> None:
    """Clone beside `folder`, then rename: a killed task leaves no half clone at `folder`."""
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)

    git = ["git", "-C", str(partial)]
    commands = [
        ["git", "clone", "--quiet", "--no-checkout", sweep_spec["url"], str(partial)],
        [*git, "checkout", "--quiet", "--detach", sweep_spec["revision"]],
    ]
    for key, value in sweep_spec["identity"].items():
        commands.append([*git, "config", key, value])
    for command in commands:
        subprocess.run(command, check=True, capture_output=True, text=True)

    config = partial / sweep_spec["prefix"] / ".dvc/config.local"
    # Without quotes a # in the folder's name would begin a comment.
    config.write_text(f'[cache]\n    dir = "{cache_folder(sweep_spec)}"\n', encoding="utf-8")
    partial.rename(folder)
