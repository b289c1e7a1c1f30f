"""Where the project is: the folder with params.yaml and dvc.yaml, at or above the current one."""

import os
import shlex
from pathlib import Path

from prunelab.core.errors import InputError
from prunelab.core.files import PathLike, user_path

MARKS = ("params.yaml", "dvc.yaml")

_start: Path | None = None  # the folder that `enter` left


def is_project(folder: Path) -> bool:
    """Whether a folder is the top of a project."""
    return all((folder / name).is_file() for name in MARKS)


def find_project(folder: Path) -> Path | None:
    """The nearest project at or above a folder, as Git finds a repository."""
    for candidate in (folder, *folder.parents):
        if is_project(candidate):
            return candidate
    return None


def enter() -> None:
    """Make the project the working directory, if the current one lies in it.

    A folder with a params.yaml of its own is left as it is.

    Raises:
        InputError: if the current folder was deleted.
    """
    global _start
    _start = None
    try:
        here = Path.cwd()
    except FileNotFoundError:
        raise InputError("the current folder was deleted; go to another one: cd") from None
    if (here / MARKS[0]).is_file():
        return
    project = find_project(here)
    if project is not None:
        os.chdir(project)
        _start = here


def argument_path(text: PathLike) -> Path:
    """A path that was typed where the command began, as it is called from the working directory."""
    path = user_path(text)
    if _start is None or path.is_absolute():
        return path
    return Path(os.path.relpath(_start / path))


def where_to_go() -> str:
    """The advice of a message that needs a project: which folder to go to."""
    advice = "Run this in the top folder of the project"
    try:
        below = sorted(child.name for child in Path().iterdir() if is_project(child))
    except OSError:
        below = []
    if below:
        return f"{advice}: cd {shlex.quote(below[0])}"
    return f"{advice}, the one with {' and '.join(MARKS)}, or below it"
