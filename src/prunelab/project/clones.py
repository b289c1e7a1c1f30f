"""Clones of the project in which settings run, so that a study never touches the user's working tree.

Why not `dvc exp run --temp` or DVC's queue: both start every experiment in a new folder, so a killed one loses its
finished epochs and its copy of the prepared data; a killed `--temp` leaves a stash entry that the next one picks up
instead of its own; ignored files (data/raw) do not travel; and lists need Hydra's quoting. A clone of ours is kept from
run to run, gets params.yaml written as a whole, shares the project's DVC cache and with it the run cache, and takes
`dvc repro` and `dvc exp save`, each of which can be killed and typed again. A clone rather than a linked worktree,
since worktrees share the references by which a running `dvc exp run` keeps its state. What comes out is an experiment
like any other: its reference is fetched into the project, where `dvc exp show` lists it.
"""

import fcntl
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
from ruamel.yaml import YAML

from prunelab.core.errors import InputError
from prunelab.core.files import read_json, replacing, sha256
from prunelab.project.git import git
from prunelab.project.paths import DENSE_METRICS, ENVIRONMENT, METRICS, RAW, TARGET

FOLDER = Path(".prunelab/studies")
PATIENCE_S = 5.0


class Failed(Exception):
    """A command ended badly; the log tells."""


class Checkout:
    """A clone under .prunelab/studies/checkouts, used by one process at a time."""

    def __init__(self, root: Path, folder: Path):
        self.root, self.folder = root, folder
        self._last = folder.with_suffix(".last")

    def last(self) -> str | None:
        """The experiment that ran here last: its epochs, if it was killed, lie here."""
        return self._last.read_text() if self._last.exists() else None

    def start(self, name: str, revision: str, params: Mapping[str, Any], cache: Path) -> None:
        """Bring the clone to a commit of the project, with these parameters and the project's data and cache."""
        clone_at(self.root, self.folder, revision)
        for key in ("user.name", "user.email"):
            if value := _configured(self.root, key):
                git(self.folder, "config", key, value)
        use_cache(self.folder, cache)
        _write_params(self.folder / "params.yaml", params)
        (self.folder / ENVIRONMENT).unlink(missing_ok=True)
        self._last.write_text(name)

    def dvc(
        self,
        *arguments: str,
        log: TextIO,
        said: Callable[[str], None],
        started: set[subprocess.Popen],
        variables: Mapping[str, str],
    ) -> None:
        """Run a DVC command here, its output into `log` and line by line to `said`; raises Failed."""
        process = subprocess.Popen(
            [sys.executable, "-m", "prunelab.project.dvc_child", *arguments],
            cwd=self.folder,
            env={**_variables(), **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        started.add(process)
        try:
            with process:
                assert process.stdout is not None
                for line in process.stdout:
                    log.write(line)
                    log.flush()
                    said(line)
            if process.returncode != 0:
                raise Failed(f"dvc {arguments[0]} ended with {process.returncode}")
        finally:
            started.discard(process)

    def keep_environment(self) -> None:
        """Where numbers came out of DVC's cache, so must the note on what they were measured on: DVC stores none."""
        metrics, noted = self.folder / METRICS, self.folder / ENVIRONMENT
        if not metrics.exists():
            return
        stored = self.root / FOLDER / "environment" / f"{sha256(metrics)}.json"
        if noted.exists() and read_json(noted).get("metrics_sha256") == sha256(metrics):
            with replacing(stored) as partial:
                shutil.copyfile(noted, partial)
        elif stored.exists():
            noted.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(stored, noted)

    def save(self, name: str, message: str, dvc: Callable[..., None]) -> None:
        """Make an experiment of what lies here and hand it to the project."""
        saving = ["exp", "save", "--force", "--name", name, "--message", message]
        for path in (METRICS, DENSE_METRICS, ENVIRONMENT):  # Git may not know them yet
            saving += ["--include-untracked", str(path)] if (self.folder / path).exists() else []
        dvc(*saving, TARGET)
        for reference in git(
            self.folder, "for-each-ref", "--format=%(refname)", "refs/exps"
        ).splitlines():
            if reference.endswith(f"/{name}"):
                fetch = ("fetch", "--quiet", "--no-tags", "--no-auto-gc", "--no-write-fetch-head")
                git(self.root, *fetch, str(self.folder), f"+{reference}:{reference}")
                git(self.folder, "update-ref", "-d", reference)


@contextmanager
def checkout(root: Path, wanted: str, slots: int) -> Iterator[Checkout]:
    """Hold a free checkout, the one where the experiment `wanted` ran last if that is free.

    A killed run may need a moment to let go of its own; after that, checkouts beyond `slots` are made.
    """
    folder = root / FOLDER / "checkouts"
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        count = slots if time.monotonic() < deadline else slots + 64
        places = [Checkout(root, folder / str(number)) for number in range(count)]
        for place in sorted(places, key=lambda place: place.last() != wanted):
            with place.folder.with_suffix(".lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                yield place
                return
        time.sleep(0.2)


def clone_at(root: Path, folder: Path, revision: str) -> None:
    """Make `folder` a clone of the project at a commit, with the project's raw data; what DVC made there stays."""
    if not _is_clone(folder):
        partial = folder.with_name(f"{folder.name}.partial")
        for place in (folder, partial):
            shutil.rmtree(place, ignore_errors=True)
        git(root, "clone", "--quiet", "--local", "--no-checkout", str(root), str(partial))
        partial.rename(folder)
    for lock in (folder / ".git").glob(
        "*.lock"
    ):  # of a git that was killed: nobody else uses this clone
        lock.unlink()
    git(folder, "fetch", "--quiet", "--no-tags", str(root), revision)
    git(folder, "checkout", "--quiet", "--force", "--detach", revision)
    git(folder, "clean", "--quiet", "-d", "--force")
    (folder / ".git/info/exclude").write_text(
        f"/{RAW}\n"
    )  # .gitignore means the folder, and this is a link
    _link(folder / RAW, root / RAW)


def _is_clone(folder: Path) -> bool:
    """Whether Git takes this for a repository of its own: in half a one it would act on the project around it."""
    try:
        found = git(folder, "rev-parse", "--absolute-git-dir").strip()
    except InputError:
        return False
    return Path(found) == (folder / ".git").resolve()


def use_cache(folder: Path, cache: Path) -> None:
    """Have the DVC of a clone keep everything in this cache."""
    local = ConfigObj(
        encoding="utf-8"
    )  # which quotes what a folder's name may hold: a # would begin a comment
    local["cache"] = {"dir": str(cache)}
    with (folder / ".dvc/config.local").open("wb") as file:
        local.write(file)


def cache_folder(root: Path) -> Path:
    """Where the project's DVC keeps its cache."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        return Path(repo.cache.local_cache_dir)


def _link(link: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        shutil.rmtree(link, ignore_errors=True)
        link.symlink_to(target)


def _write_params(path: Path, params: Mapping[str, Any]) -> None:
    yaml = YAML()
    content = yaml.load(path)  # with its comments: the experiment's difference is then what differs
    for key, value in params.items():
        if isinstance(value, Mapping) and isinstance(content.get(key), dict):
            for inner, its in value.items():
                if content[key].get(inner) != its:
                    content[key][inner] = its
        elif content.get(key) != value:
            content[key] = value
    yaml.dump(content, path)


def _configured(root: Path, key: str) -> str | None:
    try:
        return git(root, "config", key).strip()
    except InputError:
        return None


def _variables() -> dict[str, str]:
    """The environment with this interpreter first, this package importable, and no trace of a DVC around us."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if key not in ("DVC_STAGE", "DVC_ROOT", "DVC_EXP_NAME")
    }
    source = str(Path(__file__).parents[2])
    path = [str(Path(sys.executable).parent), kept.get("PATH", "")]
    return kept | {"PATH": os.pathsep.join(path), "PYTHONPATH": source, "PYTHONUNBUFFERED": "1"}
