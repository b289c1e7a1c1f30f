"""One job of a sweep on a node, in the project's folder of the node's clone of the commit.

The process reads the job from standard input. Settings run in clones of the node's clone, as the
settings of a study run in clones of the project.
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
from prunelab.commands.studies.local import Dvc, LocalRun, measure, refresh_changed_inputs
from prunelab.commands.sweep.ray.node import cache_folder
from prunelab.core.errors import InputError
from prunelab.project.clones import FOLDER, Checkout, DvcCommandError
from prunelab.project.git import git
from prunelab.project.paths import TARGET
from prunelab.warm.control import loaded_process

MAX_CLONES = 64  # more than the tasks that a node runs at a time
ATTEMPTS = 3
DENSE, SETTING = "dense", "setting"  # the two kinds of job


def main() -> int:
    """Do the job on standard input; return the exit status."""
    job_spec = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()

    root, job = Path.cwd(), Job(**job_spec["job"])
    if job_spec["kind"] == DENSE:
        work = partial(_share_dense, root)
    else:
        # Ray repeats a task whose node died. The first attempt may have come to the end.
        reference = experiment_reference(job_spec["revision"], job.name)
        if git(root, "ls-remote", job_spec["url"], reference):
            print(f"{job.label}: measured already")
            return 0
        work = partial(_measure_setting, root, job_spec)

    with loaded_process(root / FOLDER / "logs") as variables:
        run = LocalRun(
            root=root,
            revision=job_spec["revision"],
            cache=cache_folder(job_spec),
            slots=MAX_CLONES,
            print_line=partial(print, flush=True),
            work=work,
            variables=variables,
        )
        run.run_job(job, job_spec["position"])

    for log_end in run.failures.values():
        print(log_end)
    return len(run.failures)


def _end_with_parent() -> None:
    """End this process when the task, which holds the other end of standard input, is killed."""
    sys.stdin.read()
    os._exit(1)


def experiment_reference(revision: str, name: str) -> str:
    """Return the Git reference under which DVC keeps an experiment derived from a commit."""
    return f"refs/exps/{revision[:2]}/{revision[2:]}/{name}"


def _share_dense(root: Path, job: Job, clone: Checkout, dvc: Dvc) -> str:
    """Put the dense network on the remotes, with DVC's run cache.

    Settings leave the run cache alone, because DVC copies the whole of it every time.
    """
    marker = _dense_marker(root, job)
    if marker.exists():
        return "shared already"
    _get_dense(job, clone, dvc)
    _retry(lambda: dvc("push", "--quiet", "--run-cache", "--with-deps", DENSE_TARGET))
    marker.touch()
    return "shared"


def _measure_setting(
    root: Path, job_spec: dict[str, Any], job: Job, clone: Checkout, dvc: Dvc
) -> str:
    """Measure a setting, then put its networks and its experiment on the remotes."""
    marker = _dense_marker(root, job)
    if not marker.exists():
        _get_dense(job, clone, dvc)
        marker.touch()

    result = measure(job_spec["title"], job, clone, dvc)

    _retry(lambda: dvc("push", "--quiet", "--with-deps", TARGET))
    reference = experiment_reference(job_spec["revision"], job.name)
    _retry(lambda: git(root, "push", "--quiet", job_spec["url"], f"+{reference}:{reference}"))
    return result


def _dense_marker(root: Path, job: Job) -> Path:
    """Return the file that marks a dense network as present on this node and on the remotes."""
    folder = root / FOLDER / "dense"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / job.dense_key


def _get_dense(job: Job, clone: Checkout, dvc: Dvc) -> None:
    """Take the dense network out of the remote's run cache, or train it."""
    pull = partial(dvc, "repro", "--pull")
    refresh_changed_inputs(job, clone, lambda _, *arguments: pull(*arguments))
    pull(DENSE_TARGET)


def _retry(action: Callable[[], object]) -> None:
    """Try an action up to ATTEMPTS times: one network failure must not cost hours of training."""
    for attempt in range(1, ATTEMPTS):
        try:
            action()
            return
        except (DvcCommandError, InputError) as error:
            print(f"{error}; trying again", flush=True)
            time.sleep(2.0**attempt)

    action()  # the last attempt may raise


if __name__ == "__main__":
    sys.exit(main())
