"""Work on a GPU in streams of its own: one function at a time, or one in each of several threads.

Small networks leave a GPU half empty. Threads that launch on streams of their own fill it, and
every one of them computes the bits that it would compute alone.

Of several threads one runs at a time, except where its code says `side_by_side`: torch's random
generators, its tracing and the filters of warnings belong to the whole process.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch

from prunelab.runtime import time_limit

Result = TypeVar("Result")


class StoppedError(Exception):
    """Another thread's work has failed, so this thread must end."""


class _ThreadState(threading.local):
    """What belongs to one thread: its stream, its group, and whether it is this thread's turn."""

    stream: torch.cuda.Stream | None = None
    group: "_Threads[Any] | None" = None
    has_turn: bool = False


_this_thread = _ThreadState()


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """Let this thread compute on a stream besides the default one, which cannot be recorded.

    A thread keeps its stream: libraries keep work space for every one that they have seen. On a CPU
    this does nothing.
    """
    if device.type != "cuda" or torch.cuda.current_stream() != torch.cuda.default_stream():
        yield
        return

    if _this_thread.stream is None:
        _this_thread.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream, default = _this_thread.stream, torch.cuda.current_stream()
    stream.wait_stream(default)
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        default.wait_stream(stream)


@contextmanager
def side_by_side() -> Iterator[None]:
    """Let other threads of the group compute meanwhile; alone, this does nothing."""
    group = _this_thread.group
    if group is None or not _this_thread.has_turn:
        yield
        return

    _end_turn(group)
    try:
        yield
    finally:
        _take_turn(group)


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Within `side_by_side`: wait until no other thread has its turn, and take it."""
    group = _this_thread.group
    if group is None or _this_thread.has_turn:
        yield
        return

    _take_turn(group)
    try:
        yield
    finally:
        _end_turn(group)


def _take_turn(group: "_Threads[Any]") -> None:
    group.turn.acquire()
    _this_thread.has_turn = True


def _end_turn(group: "_Threads[Any]") -> None:
    _this_thread.has_turn = False
    group.turn.release()


def shares_generators() -> bool:
    """Whether other threads may use torch's global random generators at the same time."""
    return _this_thread.group is not None and not _this_thread.has_turn


def stop_if_asked() -> None:
    """End this thread's work if that of another one has failed.

    Raises:
        StoppedError: if it has.
    """
    group = _this_thread.group
    if group is not None and group.stopping.is_set():
        raise StoppedError


def in_threads(
    seeds: Sequence[int], work: Callable[[int], Result], device: torch.device
) -> Iterator[Result]:
    """Yield `work(seed)` for every seed, in their order, each computed in a thread.

    Those for which the GPU has too little memory beside the others run again afterwards, one after
    another. `work` must then do the same again, or go on where it was.

    Raises:
        Exception: whatever `work` raises, after the others have ended.
    """
    threads = _Threads(work, device)
    try:
        for seed in seeds:
            threads.start(seed, alone=len(seeds) == 1)
        for seed in seeds:
            yield threads.result(seed)
    finally:
        threads.end()


class _Threads(Generic[Result]):
    """A group of threads, one for each seed, and what they have returned or raised."""

    def __init__(self, work: Callable[[int], Result], device: torch.device) -> None:
        self.stopping = threading.Event()
        self.turn = threading.Lock()
        self._work = work
        self._device = device
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._results: dict[int, Result] = {}
        self._postponed: set[int] = set()  # for want of memory
        self._error: BaseException | None = None

    def start(self, seed: int, *, alone: bool) -> None:
        thread = threading.Thread(target=self._run, args=(seed, alone), daemon=True)
        self._threads.append(thread)
        thread.start()

    def result(self, seed: int) -> Result:
        """Wait for a seed's result."""
        with self._changed:
            while seed not in self._results:
                if self._error is not None:
                    raise self._error
                if seed in self._postponed and not self._any_runs():
                    self._postponed.remove(seed)
                    print(f"too little memory beside the other seeds: seed {seed} runs again alone")
                    torch.cuda.empty_cache()
                    self.start(seed, alone=True)
                self._changed.wait(0.1)
            return self._results.pop(seed)

    def end(self) -> None:
        """Stop all threads and wait for them."""
        self.stopping.set()
        for thread in self._threads:
            thread.join()

    def _any_runs(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def _run(self, seed: int, alone: bool) -> None:
        _this_thread.group = self
        try:
            with one_at_a_time(), own_stream(self._device):
                stop_if_asked()
                time_limit.seed_begins()
                result = self._work(seed)
            with self._changed:
                self._results[seed] = result
        except StoppedError:
            pass
        except torch.cuda.OutOfMemoryError as error:
            self._run_out_of_memory(seed, error, alone=alone)
        except BaseException as error:
            self._fail(error)
        finally:
            with self._changed:
                self._changed.notify_all()

    def _run_out_of_memory(self, seed: int, error: BaseException, *, alone: bool) -> None:
        if alone:
            self._fail(error)
            return
        with self._changed:
            self._postponed.add(seed)

    def _fail(self, error: BaseException) -> None:
        self.stopping.set()
        with self._changed:
            self._error = error
