"""Git as a command. No other module of the package starts it, except on nodes of a cluster."""

import subprocess
from pathlib import Path

from prunelab.core.errors import InputError


def git(folder: Path, *arguments: str, stdin: str = "") -> str:
    """Run a Git command in a folder and return its output as text.

    Raises:
        InputError: with Git's own message, if the command fails.
    """
    return git_bytes(folder, *arguments, stdin=stdin.encode()).decode(errors="replace")


def git_bytes(folder: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    """Run a Git command in a folder and return its output, which may be the content of a file.

    Raises:
        InputError: with Git's own message, if the command fails.
    """
    command = ["git", "-C", str(folder), *arguments]
    process = subprocess.run(command, input=stdin, capture_output=True, check=False)
    if process.returncode != 0:
        message = " ".join(process.stderr.decode(errors="replace").split())
        raise InputError(f"git {arguments[0]}: {message}")
    return process.stdout
