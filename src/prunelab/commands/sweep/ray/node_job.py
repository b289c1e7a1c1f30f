"""One job of a sweep on a node, in the node's clone: the job comes on standard input.

The clone stands to the settings as the project stands to those of a study: they run in checkouts of it.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from prunelab.commands.studies.jobs import DENSE_TARGET, Job
from prunelab.commands.studies.local import DVC, Run, measure, renew
from prunelab.core.errors import InputError
from prunelab.project.clones import FOLDER, Checkout, Failed
from prunelab.project.git import git
from prunelab.project.paths import TARGET

SLOTS = 64  # more than a node has tasks at a time
ATTEMPTS = 3
DENSE, SETTING = "dense", "setting"


def main() -> int:
    """Do what the order says; returns the status to end with."""
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    root, job = Path.cwd(), Job(**order["job"])
    reference = reference_of(order["revision"], job.name)
    if order["kind"] == SETTING and git(root, "ls-remote", order["url"], reference):
        print(f"{job.label}: measured already")  # a task that Ray started anew had got so far
        return 0
    work = partial(_dense, root) if order["kind"] == DENSE else partial(_setting, root, order)
    run = Run(
        root, order["revision"], root.parent / "cache", SLOTS, partial(print, flush=True), work
    )
    run.job(job, order["place"])
    for told in run.failures.values():
        print(told)
    return len(run.failures)


def _end_with_parent() -> None:
    """The task holds the other end of standard input: a killed one must not leave this process behind."""
    sys.stdin.read()
    os._exit(1)


def reference_of(revision: str, name: str) -> str:
    return f"refs/exps/{revision[:2]}/{revision[2:]}/{name}"


def _dense(root: Path, job: Job, clone: Checkout, dvc: DVC) -> str:
    """Have the dense network in the remotes; settings leave their own stages out of the run cache, since DVC copies the
    whole of it every time.
    """
    known = _known(root, job)
    if known.exists():
        return "shared already"
    _bring_dense(job, clone, dvc)
    _stubbornly(lambda: dvc("push", "--quiet", "--run-cache", "--with-deps", DENSE_TARGET))
    known.touch()
    return "shared"


def _setting(root: Path, order: dict[str, Any], job: Job, clone: Checkout, dvc: DVC) -> str:
    known = _known(root, job)
    if not known.exists():
        _bring_dense(job, clone, dvc)
        known.touch()
    told = measure(order["title"], job, clone, dvc)
    _stubbornly(lambda: dvc("push", "--quiet", "--with-deps", TARGET))
    reference = reference_of(order["revision"], job.name)
    _stubbornly(lambda: git(root, "push", "--quiet", order["url"], f"+{reference}:{reference}"))
    return told


def _known(root: Path, job: Job) -> Path:
    """The mark of a dense network that this node has and the others can have."""
    folder = root / FOLDER / "dense"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / job.dense


def _bring_dense(job: Job, clone: Checkout, dvc: DVC) -> None:
    """Take the dense network out of the remote's run cache, or train it."""
    pull = partial(dvc, "repro", "--pull")
    renew(job, clone, lambda _, *arguments: pull(*arguments))
    pull(DENSE_TARGET)


def _stubbornly(attempt: Callable[[], object]) -> None:
    """Networks fail now and then, and hours of training should not hang on one try."""
    for number in range(1, ATTEMPTS):
        try:
            attempt()
            return
        except (Failed, InputError) as error:
            print(f"{error}; trying again", flush=True)
            time.sleep(2.0**number)
    attempt()


if __name__ == "__main__":
    sys.exit(main())
