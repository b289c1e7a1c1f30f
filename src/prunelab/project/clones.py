"""Clones of the project in which settings run, so that a study never touches the working tree.

Why not `dvc exp run --temp` or DVC's queue:

- Both start every experiment in a new folder. A killed one loses its finished epochs and its copy
  of the prepared data.
- A killed `--temp` leaves a stash entry, which the next one picks up instead of its own.
- Ignored files (data/raw) are not copied.
- Lists need Hydra's quoting.

A clone of ours is kept from run to run. It is one of the whole repository; stages run in the
project's folder in it, which need not be the top. Its params.yaml is written as a whole. It shares
the project's DVC cache, and with it the run cache. In it run `dvc repro` and `dvc exp save`, which
can be killed and started again. A linked worktree would not do: worktrees share the references in
which a running `dvc exp run` keeps its state.

The result is an ordinary experiment. Its reference is fetched into the project, where
`dvc exp show` lists it.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from configobj import ConfigObj

from prunelab.config.edit_params import with_values
from prunelab.config.params import PARAMS_FILE
from prunelab.core.errors import InputError
from prunelab.core.files import read_json, replacing, sha256
from prunelab.core.locks import try_lock
from prunelab.project.experiments import stage_closure
from prunelab.project.git import check_out, git, holds, identity_settings, prefix, top_folder
from prunelab.project.paths import ENVIRONMENT, METRICS, RAW, TARGET
from prunelab.project.recovery import RWLOCK

FOLDER = Path(".prunelab/studies")
RELEASE_TIMEOUT_S = 5.0  # a killed run may need a moment to release its checkout
EXTRA_CHECKOUTS = 64  # may be made beyond the number of slots after that time
RETRY_INTERVAL_S = 0.2

# Variables by which a DVC around this process would change what a DVC below it does.
DVC_VARIABLES = ("DVC_STAGE", "DVC_ROOT", "DVC_EXP_NAME")


class DvcCommandError(Exception):
    """A DVC command failed; its log says why."""


class Checkout:
    """A clone under .prunelab/studies/checkouts, used by one process at a time."""

    def __init__(self, root: Path, clone: Path, start: Path) -> None:
        """`start` is the project's folder relative to the top of its repository."""
        self.root = root
        self.folder = clone / start  # the project's folder, in which stages run
        self.lock_file = clone.with_suffix(".lock")
        self._clone = clone
        self._last_file = clone.with_suffix(".last")

    def last(self) -> str | None:
        """Return the experiment that ran here last. If it was killed, its epochs are here."""
        if not self._last_file.exists():
            return None
        return self._last_file.read_text(encoding="utf-8")

    def start(self, name: str, revision: str, params: Mapping[str, Any], cache: Path) -> None:
        """Bring the clone to a commit of the project, with these parameters and this DVC cache."""
        clone_at(self.root, self._clone, revision)
        for key, value in identity_settings(self.root).items():
            git(self.folder, "config", key, value)
        use_cache(self.folder, cache)

        params_file = self.folder / PARAMS_FILE
        text = with_values(params_file.read_text(encoding="utf-8"), params)
        params_file.write_text(text, encoding="utf-8")
        (self.folder / ENVIRONMENT).unlink(missing_ok=True)
        self._last_file.write_text(name, encoding="utf-8")

    def dvc(
        self,
        *arguments: str,
        log: TextIO,
        on_line: Callable[[str], None],
        processes: set[subprocess.Popen[str]],
        variables: Mapping[str, str],
    ) -> None:
        """Run a DVC command in the clone.

        Its output goes to `log`, and every line also to `on_line`. While it runs, it is in
        `processes`, so that another thread can end it.

        Raises:
            DvcCommandError: if the command fails.
        """
        process = subprocess.Popen(
            [sys.executable, "-m", "prunelab.project.dvc_child", *arguments],
            cwd=self.folder,
            env={**_child_environment(), **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        processes.add(process)
        try:
            with process:
                assert process.stdout is not None
                for line in process.stdout:
                    log.write(line)
                    log.flush()
                    on_line(line)
        finally:
            processes.discard(process)

        if process.returncode != 0:
            raise DvcCommandError(f"dvc {arguments[0]} failed with exit code {process.returncode}")

    def keep_environment(self) -> None:
        """Store the environment file of these metrics, or restore it.

        DVC does not cache the file. If the metrics came out of DVC's cache, the file has to come
        from an earlier run as well.
        """
        metrics = self.folder / METRICS
        environment = self.folder / ENVIRONMENT
        if not metrics.exists():
            return

        metrics_hash = sha256(metrics)
        stored = self.root / FOLDER / "environment" / f"{metrics_hash}.json"
        if environment.exists() and read_json(environment).get("metrics_sha256") == metrics_hash:
            with replacing(stored) as partial:
                shutil.copyfile(environment, partial)
        elif stored.exists():
            environment.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(stored, environment)

    def save(self, name: str, message: str, dvc: Callable[..., None]) -> None:
        """Save the clone's state as an experiment and move its reference to the project."""
        command = ["exp", "save", "--force", "--name", name, "--message", message]
        closure = stage_closure((self.folder / "dvc.yaml").read_text(encoding="utf-8"))
        for path in (*closure.outputs_in_git, str(ENVIRONMENT)):
            if (self.folder / path).exists():
                # Git may not track the file yet.
                command += ["--include-untracked", path]
        dvc(*command, TARGET)

        references = git(self.folder, "for-each-ref", "--format=%(refname)", "refs/exps")
        for reference in references.splitlines():
            if reference.endswith(f"/{name}"):
                self._move_to_project(reference)

    def _move_to_project(self, reference: str) -> None:
        options = ("--quiet", "--no-tags", "--no-auto-gc", "--no-write-fetch-head")
        git(self.root, "fetch", *options, str(self._clone), f"+{reference}:{reference}")
        git(self.folder, "update-ref", "-d", reference)


@contextmanager
def checkout(root: Path, experiment: str, slots: int) -> Iterator[Checkout]:
    """Reserve a free checkout, preferably the one in which the experiment ran last.

    There are `slots` checkouts. If all stay reserved for some seconds, more are made.
    """
    folder = root / FOLDER / "checkouts"
    folder.mkdir(parents=True, exist_ok=True)
    start = prefix(root)
    deadline = time.monotonic() + RELEASE_TIMEOUT_S
    while True:
        count = slots
        if time.monotonic() >= deadline:
            count += EXTRA_CHECKOUTS
        checkouts = [Checkout(root, folder / str(number), start) for number in range(count)]
        checkouts.sort(key=lambda candidate: candidate.last() != experiment)

        for candidate in checkouts:
            with try_lock(candidate.lock_file) as held:
                if held:
                    yield candidate
                    return
        time.sleep(RETRY_INTERVAL_S)


def clone_at(root: Path, folder: Path, revision: str) -> Path:
    """Make `folder` a clone of the repository at a commit, with the project's raw data.

    A clone that exists is reused, with what DVC made in it.

    Returns:
        The project's folder in the clone.

    Raises:
        InputError: if the commit has no pipeline in that folder.
    """
    start = prefix(root)
    if not holds(root, revision, "dvc.yaml"):
        raise InputError(f"commit {revision[:8]} has no dvc.yaml in this folder")
    if not _is_clone(folder):
        _make_clone(root, folder)

    # These are left over from a Git and a DVC that were killed: no other process uses this clone.
    # DVC believes its table as long as there is a process of the same number, which after a restart
    # of the machine or the container is likely, and it does not read one that was cut short.
    git_folder = folder / ".git"
    for lock in [*git_folder.glob("*.lock"), *(git_folder / "refs").rglob("*.lock")]:
        lock.unlink()
    (folder / start / ".dvc/tmp" / RWLOCK).unlink(missing_ok=True)
    check_out(root, folder, revision)
    git(folder, "clean", "--quiet", "-d", "--force")

    # .gitignore excludes a folder, and here the path is a link. Git makes the file from its
    # templates, and those of a user (init.templateDir) need not have it.
    exclude = folder / ".git/info/exclude"
    exclude.parent.mkdir(exist_ok=True)
    exclude.write_text(f"**/{RAW}\n")
    _link(folder / start / RAW, root / RAW)
    return folder / start


def _make_clone(root: Path, folder: Path) -> None:
    """Clone the repository. A clone that was interrupted is not taken for a whole one."""
    partial = folder.with_name(f"{folder.name}.partial")
    for leftover in (folder, partial):
        shutil.rmtree(leftover, ignore_errors=True)
    top = str(top_folder(root))
    git(root, "clone", "--quiet", "--local", "--no-checkout", top, str(partial))
    partial.rename(folder)


def _is_clone(folder: Path) -> bool:
    """Whether the folder is a Git repository itself.

    In half a repository, Git would act on the project around it.
    """
    try:
        git_folder = git(folder, "rev-parse", "--absolute-git-dir").strip()
    except InputError:
        return False
    return Path(git_folder) == (folder / ".git").resolve()


def use_cache(folder: Path, cache: Path) -> None:
    """Let the DVC of a clone use this cache."""
    # ConfigObj quotes folder names: a plain # would begin a comment.
    config = ConfigObj(encoding="utf-8")
    config["cache"] = {"dir": str(cache)}
    with (folder / ".dvc/config.local").open("wb") as file:
        config.write(file)


def cache_folder(root: Path) -> Path:
    """Return the folder in which the project's DVC keeps its cache."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        return Path(repo.cache.local_cache_dir)


def _link(link: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink():
        if link.readlink() == target:
            return
        link.unlink()  # made before the project was moved or copied: it leads to other data
    shutil.rmtree(link, ignore_errors=True)
    link.symlink_to(target)


def _child_environment() -> dict[str, str]:
    """Return the environment variables of a DVC command in a clone.

    This interpreter comes first, this package can be imported, and nothing shows of a DVC around
    this process.
    """
    variables = {key: value for key, value in os.environ.items() if key not in DVC_VARIABLES}
    interpreter_folder = str(Path(sys.executable).parent)
    variables["PATH"] = os.pathsep.join([interpreter_folder, variables.get("PATH", "")])
    variables["PYTHONPATH"] = str(Path(__file__).parents[2])
    variables["PYTHONUNBUFFERED"] = "1"
    return variables
