"""One function for every seed: in child processes or threads side by side, or one after another.

What a seed computes is the caller's business. On a CPU a few threads make a small network hardly
faster than one, so seeds that run side by side use cores better. Children are forked: they share
what was loaded before, and a seed ends with the same bits in either way.
"""

import gc
import io
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Any, Generic, TypeVar

import torch

from prunelab.core import plugins
from prunelab.core.cores import available_cores
from prunelab.core.errors import InputError
from prunelab.core.lifecycle import STOP_SIGNALS, describe_exit, end_with_parent
from prunelab.runtime import time_limit
from prunelab.runtime.bars import BarState, Screen, send_bars_to
from prunelab.runtime.device import Execution
from prunelab.runtime.distributed import SINGLE_PROCESS, Distributed
from prunelab.runtime.streams import in_threads

Result = TypeVar("Result")

CORES_INTERVAL_S = 1.0  # how often a stage looks whether it may use more cores than before


def for_each_seed(
    seeds: Sequence[int],
    work: Callable[[int], Result],
    execution: Execution,
    processes: Distributed = SINGLE_PROCESS,
) -> Iterator[Result]:
    """Yield `work(seed)` for every seed, in their order.

    On a CPU as many seeds run at a time as the cores of this process have room for, each with
    torch's current number of threads. On a GPU all run in threads of this process, and train at the
    same time. A seed alone, one for which there is no room beside another one, and any in several
    processes that train together, runs in this thread.

    In a child process `work` may write files and print lines; what it returns must be picklable. It
    must leave what all seeds share as it is, so that a seed could begin again. An error of one seed
    is raised here after all other children were ended, and children end with this process, however
    it ends.

    Raises:
        ChildProcessError: if a child was killed. The message names the seed.
        Exception: whatever `work` raises.
    """
    if execution.device.type == "cuda" and processes.size == 1 and len(seeds) > 1:
        yield from in_threads(seeds, work, execution.device)
        return

    waiting = deque(seeds)
    while waiting:
        if len(waiting) > 1 and _places(execution, processes) > 1:
            yield from _side_by_side(waiting, work, execution)
        else:
            yield work(waiting.popleft())


def _places(execution: Execution, processes: Distributed = SINGLE_PROCESS) -> int:
    """How many seeds can compute at a time."""
    # Forks are safe and end with their parent on Linux alone.
    if execution.device.type != "cpu" or processes.size > 1 or sys.platform != "linux":
        return 1
    return max(1, len(available_cores()) // torch.get_num_threads())


@dataclass(frozen=True)
class _Returned:
    """What a seed's function returned."""

    result: Any


@dataclass(frozen=True)
class _Raised:
    """What a seed's function raised."""

    error: BaseException


@dataclass(frozen=True)
class _Child:
    """A process that computes one seed, and the pipe through which it reports."""

    seed: int
    process: ForkProcess
    connection: Connection


def _side_by_side(
    waiting: deque[int], work: Callable[[int], Result], execution: Execution
) -> Iterator[Result]:
    """Take all seeds from `waiting` and yield their results in order."""
    seeds = list(waiting)
    children = _Children(work)
    try:
        for seed in seeds:
            while seed not in children.results:
                # Asked again and again: `prunelab repro` gives a stage more cores while it runs.
                while waiting and len(children) < _places(execution):
                    children.start(waiting.popleft())
                children.receive()
            children.screen.clear()
            yield children.results.pop(seed)
    finally:
        children.end()


class _Children(Generic[Result]):
    """The seeds that run now, and the results of those that have ended."""

    def __init__(self, work: Callable[[int], Result]) -> None:
        self.results: dict[int, Result] = {}
        self.screen = Screen()
        self._work = work
        self._running: dict[Connection, _Child] = {}

    def __len__(self) -> int:
        return len(self._running)

    def start(self, seed: int) -> None:
        """Fork a process for a seed."""
        context = multiprocessing.get_context("fork")
        connection, sender = context.Pipe(duplex=False)
        process = context.Process(
            target=_compute, args=(self._work, seed, sender, os.getpid()), name=f"seed {seed}"
        )

        # A signal that arrives before the child has its own handlers would be reported twice.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            with warnings.catch_warnings():
                # Python warns of locks that other threads may hold. Those that watch over a stage
                # hold none, and `_compute` starts threads of its own.
                warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
                process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

        sender.close()  # so that the pipe ends when the child does
        self._running[connection] = _Child(seed, process, connection)

    def receive(self) -> None:
        """Wait until a child reports, or for `CORES_INTERVAL_S`, and take in all reports."""
        for connection in wait(list(self._running), CORES_INTERVAL_S):
            assert isinstance(connection, Connection)
            self._receive_from(self._running[connection])

    def _receive_from(self, child: _Child) -> None:
        try:
            message = pickle.loads(child.connection.recv_bytes())  # noqa: S301 (of our own fork)
        except (EOFError, ConnectionError):
            child.process.join()
            raise ChildProcessError(_describe_loss(child)) from None

        match message:
            case str():
                self.screen.print(message)
            case BarState():
                self.screen.draw(child.seed, message)
            case _Raised():
                raise message.error
            case _Returned():
                self.results[child.seed] = message.result
                self._forget(child)

    def _forget(self, child: _Child) -> None:
        self.screen.remove(child.seed)
        del self._running[child.connection]
        child.connection.close()
        child.process.join()
        child.process.close()

    def end(self) -> None:
        """Kill what still runs. Nothing is lost: files being written have temporary names."""
        for child in self._running.values():
            child.process.kill()
        for child in list(self._running.values()):
            self._forget(child)
        self.screen.close()


def _describe_loss(child: _Child) -> str:
    code = child.process.exitcode
    assert code is not None, "it was joined"
    message = f"the process of seed {child.seed} {describe_exit(code)}"
    if code == -signal.SIGKILL:
        message += (
            ", probably because memory ran out (on one core, as by `taskset -c 0`, seeds run "
            "one after another and need less)"
        )
    return message


def _compute(work: Callable[[int], Any], seed: int, connection: Connection, parent: int) -> None:
    """Run `work` in a child process and report its outcome."""
    end_with_parent(parent)
    gc.freeze()  # a collection would write to all that was loaded before, and so copy it
    # Ctrl-C reaches all processes of a terminal. The parent reports it, and this one ends with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def send(message: object) -> None:
        connection.send_bytes(pickle.dumps(message))

    threads = torch.get_num_threads()

    def compute() -> None:
        torch.set_num_threads(threads)
        time_limit.seed_begins()
        connection.send_bytes(_outcome(work, seed))

    sys.stdout = _SentLines(send)
    send_bars_to(send)

    # Not in this thread: if the parent has computed with several threads, OpenMP believes that
    # this thread, its copy, still has them, and would wait for them for ever. A new thread starts
    # new ones.
    thread = threading.Thread(target=compute, name=f"seed {seed}")
    thread.start()
    thread.join()


def _outcome(work: Callable[[int], Any], seed: int) -> bytes:
    """What `work` returns or raises, as a message."""
    try:
        return pickle.dumps(_Returned(work(seed)))
    except BaseException as error:
        lines = plugins.failure_lines(error)
        if lines:
            return pickle.dumps(_Raised(InputError(lines)))

        # A traceback does not travel. As a note, it is shown below that of the parent.
        text = f"in the process of seed {seed}:\n{traceback.format_exc()}"
        error.add_note(text)
        with suppress(Exception):
            message = pickle.dumps(_Raised(error))
            pickle.loads(message)  # noqa: S301 (some errors travel, but do not arrive)
            return message
        return pickle.dumps(_Raised(RuntimeError(text)))


class _SentLines(io.TextIOBase):
    """Standard output of a child: whole lines go to the parent, which prints them."""

    def __init__(self, send: Callable[[str], None]) -> None:
        self._send = send
        self._rest = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._send(line)
        return len(text)
