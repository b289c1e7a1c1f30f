"""Git as a command, in the project's folder, which may lie anywhere inside a Git repository.

No other module of the package starts Git, except on nodes of a cluster. The folder may be the top
of its repository, a folder below it, a submodule or a linked worktree. Therefore a path in a commit
is written `COMMIT:./PATH`, which Git reads from the folder it runs in, and never `COMMIT:PATH`,
which it reads from the top.
"""

import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from prunelab.core.errors import InputError

FIRST_COMMIT = 'git init && git add -A && git commit -m "Start"'
NEXT_COMMIT = 'git add -A && git commit -m "Start"'
IDENTITY = (
    'git config --global user.name "Your Name"',
    "git config --global user.email you@example.com",
)


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
    try:
        process = subprocess.run(
            command, input=stdin, capture_output=True, check=False, env=_environment()
        )
    except FileNotFoundError:
        raise InputError("this needs Git, which is not installed (https://git-scm.com)") from None
    if process.returncode != 0:
        message = " ".join(process.stderr.decode(errors="replace").split())
        raise InputError(f"git {arguments[0]}: {message}")
    return process.stdout


def _environment() -> dict[str, str]:
    # Messages in English, like ours: `is_in_repository` reads one.
    return {**os.environ, "LC_ALL": "C"}


def require_commit(root: Path) -> None:
    """Refuse a folder whose pipeline no commit of a Git repository holds.

    Raises:
        InputError: with the commands to type, if the folder is in no Git repository, or if its last
            commit does not hold the folder's dvc.yaml; with Git's own message, if Git does not open
            the repository, for example because it belongs to another user.
    """
    if not is_in_repository(root):
        raise InputError(f"this needs a Git repository; type: {FIRST_COMMIT}")

    if (root / "dvc.yaml").is_file() and not holds(root, "HEAD", "dvc.yaml"):
        raise InputError(f"this needs a commit with the files here; type: {NEXT_COMMIT}")


def is_in_repository(root: Path) -> bool:
    """Whether a folder is in a Git repository.

    Raises:
        InputError: with Git's own message, if Git does not open the repository.
    """
    try:
        git(root, "rev-parse", "--git-dir")
    except InputError as error:
        if "not a git repository" in str(error):
            return False
        raise
    return True


def require_identity(root: Path) -> None:
    """Refuse to start work whose results Git could not commit, for lack of an author.

    Raises:
        InputError: with the two commands to type.
    """
    try:
        git(root, "var", "GIT_COMMITTER_IDENT")
    except InputError:
        raise InputError(f"Git does not know who you are; type: {' && '.join(IDENTITY)}") from None


def identity_settings(root: Path) -> dict[str, str]:
    """Return the name and the address of the author, as far as Git's settings have them."""
    settings = {}
    for key in ("user.name", "user.email"):
        with suppress(InputError):
            settings[key] = git(root, "config", key).strip()
    return settings


def top_folder(root: Path) -> Path:
    """Return the top folder of the working tree that holds the project."""
    return Path(_without_newline(git(root, "rev-parse", "--show-toplevel")))


def prefix(root: Path) -> Path:
    """Return the project's folder relative to the top of its working tree; `.` for the top."""
    return Path(_without_newline(git(root, "rev-parse", "--show-prefix")))


def _without_newline(output: str) -> str:
    return output.removesuffix("\n")  # a folder's name may end with a space


def check_out(root: Path, clone: Path, commit: str) -> None:
    """Bring a clone of the project's repository to one of its commits, whatever is in the clone.

    The commit of an experiment is on no branch, so a clone need not have it.
    """
    git(clone, "fetch", "--quiet", "--no-tags", str(top_folder(root)), commit)
    git(clone, "checkout", "--quiet", "--force", "--detach", commit)


def show(root: Path, revision: str, path: Path | str) -> str:
    """Return the text of a file of the project in a commit.

    Raises:
        InputError: with Git's own message, if the commit lacks the file.
    """
    return show_bytes(root, revision, path).decode(errors="replace")


def show_bytes(root: Path, revision: str, path: Path | str) -> bytes:
    """Return the content of a file of the project in a commit.

    Raises:
        InputError: with Git's own message, if the commit lacks the file.
    """
    return git_bytes(root, "cat-file", "blob", f"{revision}:./{path}")


def holds(root: Path, revision: str, path: Path | str) -> bool:
    """Whether a commit has this file of the project."""
    try:
        git(root, "cat-file", "-e", f"{revision}:./{path}")
    except InputError:
        return False
    return True


def blobs(root: Path, revisions: Sequence[str], paths: Sequence[str]) -> dict[str, set[str]]:
    """Return Git's hashes of the contents that files of the project have in commits, by path."""
    pairs = [(revision, path) for revision in revisions for path in paths]
    requests = "".join(f"{revision}:./{path}\n" for revision, path in pairs)
    answers = git(root, "cat-file", "--batch-check=%(objectname)", stdin=requests).splitlines()

    hashes: dict[str, set[str]] = {path: set() for path in paths}
    for (_, path), answer in zip(pairs, answers, strict=True):
        if not answer.endswith(" missing"):
            hashes[path].add(answer)
    return hashes


def changed_files(root: Path, *paths: str, untracked: bool = True) -> list[str]:
    """Return the files of the project that differ from the last commit, relative to the project.

    With `paths`, only those files and the files in those folders.
    """
    untracked_files = "all" if untracked else "no"
    options = ("--porcelain", "-z", "--no-renames", f"--untracked-files={untracked_files}")
    listing = git(root, "status", *options, "--", *(paths or ["."]))

    # Git lists them relative to the top. The first three characters say what changed.
    start = prefix(root)
    from_top = [line[3:] for line in listing.split("\0") if line]
    return [str(Path(path).relative_to(start)) for path in from_top]
