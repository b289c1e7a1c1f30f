"""Workers: started when there is something for them to do, each in a session of its own, all ended together."""

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from prunelab.project.paths import WORKER

GRACE_S = 1.0  # for stages and DVC to end by themselves


@dataclass
class Worker:
    process: subprocess.Popen[bytes]
    stage: str | None = None


class WorkerPool:
    """Up to `size` workers by number, of which each reproduces a stage at a time."""

    def __init__(self, root: Path, size: int):
        self._root, self._size = root, size
        self._workers: dict[int, Worker] = {}
        self._selector = selectors.DefaultSelector()

    def free(self) -> int:
        """The lowest number that has nothing to do."""
        return next(number for number in range(self._size) if number not in self.busy())

    def busy(self) -> dict[int, int]:
        """The process id of every worker that has something to do."""
        return {
            number: worker.process.pid
            for number, worker in self._workers.items()
            if worker.stage is not None
        }

    def give(
        self, number: int, stage: str, log: Path, variables: Mapping[str, str], order: Sequence[str]
    ) -> None:
        """Have a worker reproduce a stage, with what it prints in `log`."""
        if number not in self._workers:
            self._workers[number] = Worker(self._begin(number))
        worker = self._workers[number]
        worker.stage = stage
        task = {"stage": stage, "log": str(log), "variables": variables, "order": order}
        assert worker.process.stdin is not None
        with suppress(BrokenPipeError):  # it is dead, which `wait` will say
            worker.process.stdin.write(json.dumps(task).encode() + b"\n")
            worker.process.stdin.flush()

    def _begin(self, number: int) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", WORKER, str(os.getpid())],
            cwd=self._root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us to pass on, and whatever a stage starts can be found
        )
        assert process.stdout is not None
        self._selector.register(process.stdout, selectors.EVENT_READ, number)
        return process

    def wait(self, timeout_s: float) -> list[tuple[str, str]]:
        """Stages that came to an end, each with made, unchanged, failed or killed; none if nothing did for so long."""
        ended = []
        for key, _ in self._selector.select(timeout_s):
            worker = self._workers[key.data]
            assert worker.process.stdout is not None
            line = worker.process.stdout.readline()
            if not line:  # killed, as by a machine out of memory; the next stage gets a new one
                self._selector.unregister(worker.process.stdout)
                _end([worker.process])
                del self._workers[key.data]
            if worker.stage is not None:
                ended.append((worker.stage, json.loads(line) if line else "killed"))
            worker.stage = None
        return ended

    def stop(self) -> None:
        """End all workers and all they have started, kindly for a second, then at once."""
        _end([worker.process for worker in self._workers.values()])
        self._workers.clear()
        self._selector.close()


def _end(processes: Collection[subprocess.Popen[bytes]]) -> None:
    groups = {process.pid for process in processes}
    _signal(groups, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while groups and time.monotonic() < deadline:
        time.sleep(0.02)
        for process in processes:
            process.poll()  # or the group would seem to live on
        groups = _signal(groups, 0)
    _signal(groups, signal.SIGKILL)
    for process in processes:
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()


def _signal(groups: Collection[int], number: int) -> set[int]:
    """Send a signal to process groups; those that exist."""
    found = set()
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
            found.add(group)
    return found
