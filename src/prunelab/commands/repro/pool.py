"""Worker processes: started when there is work for them or a little before, ended together.

Each worker is the leader of a session, so that it can be ended with everything that it started.
"""

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
from enum import StrEnum
from pathlib import Path

from prunelab.project.paths import WORKER

GRACE_S = 1.0  # for stages and DVC to end by themselves
POLL_INTERVAL_S = 0.02


class StageResult(StrEnum):
    made = "made"
    unchanged = "unchanged"
    failed = "failed"
    killed = "killed"  # the worker ended without an answer


@dataclass(frozen=True)
class StageTask:
    """A stage to reproduce.

    `log` receives what it prints, `variables` are added to its environment, and `order` is the
    order of entries in dvc.lock.
    """

    stage: str
    log: Path
    variables: Mapping[str, str]
    order: Sequence[str]


@dataclass
class Worker:
    """A worker process, and the stage that it reproduces now."""

    process: subprocess.Popen[bytes]
    stage: str | None = None


class WorkerPool:
    """Up to `size` workers, numbered from 0. Each reproduces one stage at a time.

    `variables` are added to the environment of all stages.
    """

    def __init__(self, root: Path, size: int, variables: Mapping[str, str] | None = None) -> None:
        self._root = root
        self._size = size
        self._variables = dict(variables or {})
        self._workers: dict[int, Worker] = {}
        self._selector = selectors.DefaultSelector()

    def start_ahead(self, count: int) -> None:
        """Start up to `count` workers, so that they load DVC before there is work for them."""
        for number in range(min(count, self._size)):
            if number not in self._workers:
                self._workers[number] = Worker(self._start_process(number))

    def idle_worker(self) -> int:
        """Return the lowest number of a worker without a stage."""
        busy = self.busy_pids()
        return next(number for number in range(self._size) if number not in busy)

    def busy_pids(self) -> dict[int, int]:
        """Return the process id of every worker that has a stage, by number."""
        pids = {}
        for number, worker in self._workers.items():
            if worker.stage is not None:
                pids[number] = worker.process.pid
        return pids

    def submit(self, number: int, task: StageTask) -> None:
        """Let a worker reproduce a stage."""
        if number not in self._workers:
            self._workers[number] = Worker(self._start_process(number))
        worker = self._workers[number]
        worker.stage = task.stage

        message = {
            "stage": task.stage,
            "log": str(task.log),
            "variables": task.variables,
            "order": task.order,
        }

        assert worker.process.stdin is not None
        with suppress(BrokenPipeError):  # the process is dead, and `wait` will report it
            worker.process.stdin.write(json.dumps(message).encode() + b"\n")
            worker.process.stdin.flush()

    def _start_process(self, number: int) -> subprocess.Popen[bytes]:
        # In a session of its own, a worker does not receive Ctrl-C. The runner ends it.
        process = subprocess.Popen(
            [sys.executable, "-m", WORKER, str(os.getpid())],
            cwd=self._root,
            env=os.environ | self._variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

        assert process.stdout is not None
        self._selector.register(process.stdout, selectors.EVENT_READ, number)
        return process

    def wait(self, timeout_s: float) -> list[tuple[str, StageResult]]:
        """Return the stages that have ended, with their results.

        Waits until a stage ends, at most `timeout_s` seconds; then the list is empty.
        """
        ended = []
        for key, _ in self._selector.select(timeout_s):
            number = key.data
            worker = self._workers[number]
            assert worker.process.stdout is not None
            answer = worker.process.stdout.readline()

            if answer:
                result = StageResult(json.loads(answer))
            else:
                # The worker was killed, for instance by a machine without memory. The next stage
                # gets a new one.
                result = StageResult.killed
                self._selector.unregister(worker.process.stdout)
                _end([worker.process])
                del self._workers[number]

            if worker.stage is not None:
                ended.append((worker.stage, result))
            worker.stage = None
        return ended

    def stop(self) -> None:
        """End all workers and everything that they started, by SIGTERM and then by SIGKILL."""
        _end([worker.process for worker in self._workers.values()])
        self._workers.clear()
        self._selector.close()


def _end(processes: Collection[subprocess.Popen[bytes]]) -> None:
    groups = _signal({process.pid for process in processes}, signal.SIGTERM)

    deadline = time.monotonic() + GRACE_S
    while groups and time.monotonic() < deadline:
        time.sleep(POLL_INTERVAL_S)
        for process in processes:
            process.poll()  # a zombie would keep its group alive
        groups = _signal(groups, 0)
    _signal(groups, signal.SIGKILL)

    for process in processes:
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()


def _signal(groups: Collection[int], number: int) -> set[int]:
    """Send a signal to process groups and return those that exist. 0 only tests for existence."""
    existing = set()
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
            existing.add(group)
    return existing
