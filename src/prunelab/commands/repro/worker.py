"""A process that reproduces stages for `prunelab repro`, one after another.

Run as `python -m prunelab.commands.repro.worker PID`, with the process id of the runner: when that
process is gone, this one ends as well. A task arrives as a line of JSON on standard input, and the
result is a line on standard output. DVC is loaded once. DVC's own lock is held as `dvc repro` holds
it, that is, not while the command of a stage runs.
"""

import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

from prunelab.commands.repro.pool import GRACE_S, StageResult
from prunelab.project.paths import WORKER

WATCH_INTERVAL_S = 0.5


class Stages:
    """The stages of the pipeline, loaded by DVC."""

    def __init__(self) -> None:
        from prunelab.project.dvc_graph import load_repo

        self.repo = load_repo(Path.cwd())
        self._stages = {stage.addressing: stage for stage in self.repo.index.stages}

    def reproduce(self, name: str, order: list[str]) -> StageResult:
        """Bring a stage up to date, as `dvc repro --single-item` does."""
        from dvc.repo import lock_repo

        from prunelab.project.dvc_lock import write_entry

        with lock_repo(self.repo), self.repo.scm_context(quiet=True):
            stage = self._stages[name]
            if not stage.reproduce():
                return StageResult.unchanged
            write_entry(stage, order)
            return StageResult.made


def work() -> None:
    """Reproduce the stages that standard input names, until it is closed."""
    tasks = os.fdopen(os.dup(0))
    results = os.fdopen(os.dup(1), "w")
    with Path(os.devnull).open() as empty_input:
        os.dup2(empty_input.fileno(), 0)  # stages inherit it

    environment = dict(os.environ)
    stages = _loaded_ahead()
    for line in tasks:
        task = json.loads(line)
        os.environ.clear()
        os.environ.update(environment | task["variables"])
        _redirect_output(Path(task["log"]))

        try:
            # Loaded here again, so that an error of DVC is written to the log of a stage.
            if stages is None:
                stages = Stages()
            result = stages.reproduce(task["stage"], task["order"])
        except Exception as error:
            _print_error(error)
            result = StageResult.failed
        print(json.dumps(result), file=results, flush=True)


def _loaded_ahead() -> Stages | None:
    """The stages, before there is work; None if DVC fails, whose message no log would receive."""
    _redirect_output(Path(os.devnull))
    try:
        return Stages()
    except Exception:
        return None


def _redirect_output(log: Path) -> None:
    """Write what this process and its children print to a file."""
    sys.stdout.flush()
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _print_error(error: BaseException) -> None:
    """Print DVC's errors as DVC does, with their causes, and any other with its traceback."""
    from dvc.exceptions import DvcException

    if not isinstance(error, DvcException):
        traceback.print_exc()
    cause: BaseException | None = error
    while isinstance(cause, DvcException):
        print(f"ERROR: {cause}", flush=True)
        cause = cause.__cause__


def _stop(number: int, _: object) -> None:
    # An exception passes through DVC, which then releases its locks.
    raise SystemExit(128 + number)


def _end_with_runner(runner: int) -> None:
    """End this process and its stage once the runner is gone, however that ended."""
    while os.getppid() == runner:
        time.sleep(WATCH_INTERVAL_S)
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE_S)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.argv[0] = WORKER  # the name that DVC writes into its table of files in use
    signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_end_with_runner, args=[int(sys.argv[1])], daemon=True).start()
    work()
