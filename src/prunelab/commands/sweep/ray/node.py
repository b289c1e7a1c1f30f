"""What a Ray task does on a node before this project is there: bring the commit, and run it in a process of its own.

Travels by value, so that nodes need the environment alone and no prunelab: standard library only.
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

TOLD_LINES = 15


def perform(order: dict[str, Any]) -> tuple[str, str | None]:
    """Do one order; return the node's name, and what went wrong if anything did."""
    node = platform.node()
    if problems := prepare(order):
        return node, "\n".join(problems)
    root = home(order)
    process = subprocess.Popen(
        [sys.executable, "-m", "prunelab.commands.sweep.ray.node_job"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root / "src"), "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    said = []
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        # Left open: its end tells the worker that this process was killed.
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        for line in process.stdout:
            print(line, end="", flush=True)
            said.append(line.rstrip())
        status = process.wait()
    return node, ("\n".join(said[-TOLD_LINES:]) or f"ended with {status}") if status else None


def prepare(order: dict[str, Any]) -> list[str]:
    """Bring this node to where it can work; return what stands in the way."""
    found = versions(list(order["versions"]))
    problems = [
        f"{platform.node()}: {name} is {found.get(name) or 'not installed'}, and {wanted} where the sweep was started; "
        "give both the same lock or image"
        for name, wanted in order["versions"].items()
        if found.get(name) != wanted
    ]
    if problems:
        return problems
    try:
        clone(order)
    except (OSError, subprocess.CalledProcessError) as error:
        told = getattr(error, "stderr", None) or str(error)
        return [f"{platform.node()}: {order['url']} cannot be cloned: {' '.join(told.split())}"]
    return []


def versions(packages: list[str]) -> dict[str, str]:
    """Versions of packages that are installed, less what tells one build from another (2.9.0+cpu), and of Python."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in packages:
        try:
            found.setdefault(name, version(name).partition("+")[0])
        except PackageNotFoundError:
            continue
    return found


def home(order: dict[str, Any]) -> Path:
    """Where this node keeps its clone of the commit; DVC's cache lies beside it, for all commits."""
    scratch = (
        os.environ.get("PRUNELAB_SCRATCH")
        or Path(tempfile.gettempdir()) / f"prunelab-{os.getuid()}"
    )
    return (
        Path(scratch)
        / hashlib.sha256(order["url"].encode()).hexdigest()[:12]
        / order["revision"][:12]
    )


def clone(order: dict[str, Any]) -> None:
    """Clone the commit once per node; whoever comes meanwhile waits for it."""
    folder = home(order)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        git = ["git", "-C", str(partial)]
        commands = [
            ["git", "clone", "--quiet", "--no-checkout", order["url"], str(partial)],
            [*git, "checkout", "--quiet", "--detach", order["revision"]],
            *([*git, "config", key, value] for key, value in order["identity"].items()),
        ]
        for command in commands:
            subprocess.run(command, check=True, capture_output=True, text=True)
        (partial / ".dvc/config.local").write_text(
            f"[cache]\n    dir = {folder.parent / 'cache'}\n"
        )
        partial.rename(folder)
