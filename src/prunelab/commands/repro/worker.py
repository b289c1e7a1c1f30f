"""A process that reproduces one stage after another as its master asks: `python -m prunelab.commands.repro.worker PID`.

PID is the master's, and tells when it is gone. A task comes as a line of JSON and is answered by a line. DVC is loaded
once; its own lock is held as `dvc repro` holds it, which is not while a stage's command runs.
"""

import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from prunelab.commands.repro.pool import GRACE_S
from prunelab.project.paths import WORKER

WATCH_S = 0.5


class Stages:
    """The pipeline as DVC sees it, loaded when the first stage is asked for."""

    def __init__(self) -> None:
        from dvc.repo import Repo

        self.repo = Repo(_wait_for_lock=True)
        self._stages = {stage.addressing: stage for stage in self.repo.index.stages}

    def reproduce(self, name: str, order: list[str]) -> bool:
        """Bring a stage up to date as `dvc repro --single-item` does; whether there was anything to do."""
        from dvc.repo import lock_repo

        from prunelab.project.dvc_lock import store

        with lock_repo(self.repo), self.repo.scm_context(quiet=True):
            stage = self._stages[name]
            if not stage.reproduce():
                return False
            store(stage, order)
            return True


def work() -> None:
    tasks, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)  # stages inherit it
    environment = dict(os.environ)
    stages = None
    for line in tasks:
        task = json.loads(line)
        os.environ.clear()
        os.environ.update(environment | task["variables"])
        _write_to(Path(task["log"]))
        try:
            stages = stages or Stages()
            answer = "made" if stages.reproduce(task["stage"], task["order"]) else "unchanged"
        except Exception as error:
            _explain(error)
            answer = "failed"
        print(json.dumps(answer), file=answers, flush=True)


def _write_to(log: Path) -> None:
    """Send what this process and its children print to a file."""
    sys.stdout.flush()
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _explain(error: BaseException) -> None:
    from dvc.exceptions import DvcException

    if not isinstance(error, DvcException):
        traceback.print_exc()
    cause: Any = error
    while isinstance(cause, DvcException):
        print(f"ERROR: {cause}", flush=True)
        cause = cause.__cause__


def _stop(number: int, _: object) -> None:
    raise SystemExit(128 + number)  # through DVC, which lets go of its locks


def _watch(master: int) -> None:
    """End this process and the stage below it once the master is gone, whatever ended it."""
    while os.getppid() == master:
        time.sleep(WATCH_S)
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE_S)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.argv[0] = WORKER  # by this DVC notes who uses which files
    signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_watch, args=[int(sys.argv[1])], daemon=True).start()
    work()
