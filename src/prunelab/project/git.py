"""Git as a command."""

import subprocess
from pathlib import Path

from prunelab.core.errors import InputError


def git(folder: Path, *arguments: str) -> str:
    """The output of a git command; raises InputError with what git said."""
    return git_bytes(folder, *arguments).decode(errors="replace")


def git_bytes(folder: Path, *arguments: str) -> bytes:
    """The same of a command whose output may be no text."""
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=False)
    if done.returncode != 0:
        raise InputError(
            f"git {arguments[0]}: {' '.join(done.stderr.decode(errors='replace').split())}"
        )
    return done.stdout
