"""CUDA graphs: a function of tensors runs a few times, is recorded, and is replayed from then on.

A small network's kernels are over before the next one is launched. A replay launches all kernels of
a step at once, and they compute the same bits. What may be recorded is the business of the caller:
only tensor operations on the device, the same ones at every call.

A graph knows addresses. What a function reads and writes besides its arguments must therefore stay
where it is (weights, optimizer state, running sums), and the arguments are copied to fixed places.
"""

import gc
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from prunelab.training.steps import StepInput

# Calls with inputs of one shape before they are recorded: libraries choose their kernels and
# optimizers make their state.
WARM_UP_CALLS = 3
# Recording costs about as much time as so many calls save.
MIN_CALLS = 64

Result = TypeVar("Result")

_announced: set[str] = set()


def say_why_not(label: str, reason: str) -> None:
    """Print why the training `label` is not recorded, once in a process for every reason."""
    if reason not in _announced:
        _announced.add(reason)
        print(f"{label}: steps are not recorded as CUDA graphs: {reason}")


class _Gate:
    """Lets replays of several threads pass at a time, or one recording alone.

    Torch marks its random generators while it records; a replay in that time would fail.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._replays = 0
        self._recording = False

    @contextmanager
    def replay(self) -> Iterator[None]:
        with self._changed:
            while self._recording:
                self._changed.wait()
            self._replays += 1
        try:
            yield
        finally:
            with self._changed:
                self._replays -= 1
                self._changed.notify_all()

    @contextmanager
    def record(self) -> Iterator[None]:
        with self._changed:
            while self._recording or self._replays:
                self._changed.wait()
            self._recording = True
        # Freeing an old graph or its memory in the middle of a recording would break it, and the
        # collector frees when it likes.
        collects = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if collects:
                gc.enable()
            with self._changed:
                self._recording = False
                self._changed.notify_all()


_gate = _Gate()


class GraphRecorder:
    """Records functions of one training on the current stream.

    Their graphs share memory, so they never run at the same time.

    Args:
        device: where the functions compute
        label: names the training in the line that reports a recording that failed
    """

    def __init__(self, device: torch.device, label: str) -> None:
        self._device = device
        self._label = label
        self._pool: Any = None
        self._graphs: list[torch.cuda.CUDAGraph] = []
        self._functions: list[_ReplayedFunction[Any]] = []
        self.stopped = False

    def replayed(
        self, function: Callable[[StepInput], Result], *, calls: int
    ) -> Callable[[StepInput], Result]:
        """`function`, recorded and replayed if so many calls are worth it.

        What it returns is overwritten by the next call.
        """
        if calls < MIN_CALLS:
            return function

        replayed = _ReplayedFunction(self, function)
        self._functions.append(replayed)
        return replayed

    def record(
        self, function: Callable[[StepInput], Result], step: StepInput
    ) -> "_Recording[Result] | None":
        """Record a call without running it. None means that this failed, and nothing changed."""
        with _gate.record():
            recording = self._record(function, step)
        if recording is None:
            self.close()
        return recording

    def _record(
        self, function: Callable[[StepInput], Result], step: StepInput
    ) -> "_Recording[Result] | None":
        fixed = _copied(step)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        if not self._has_room():
            say_why_not(self._label, "too little memory is left")
            return None

        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(
                graph,
                pool=self._pool,
                stream=torch.cuda.current_stream(),
                capture_error_mode="thread_local",  # other threads may copy and allocate
            ):
                result = function(fixed)
        except RuntimeError as error:
            say_why_not(self._label, str(error).strip().splitlines()[0])
            _clean_up(self._device, self._pool, graph)
            return None

        self._graphs.append(graph)
        return _Recording(graph, fixed, result)

    def close(self) -> None:
        """Free all graphs; from now on the functions run as they are.

        The graphs go together, once the device is idle: torch frees work space that all graphs of a
        stream share as soon as one of them goes.
        """
        self.stopped = True
        if not self._graphs:
            return

        torch.cuda.current_stream().synchronize()
        with _gate.record():
            for function in self._functions:
                function.forget()
            for graph in self._graphs:
                graph.reset()
            self._graphs.clear()

    def _has_room(self) -> bool:
        """Whether a graph and, later, a call without a graph fit into memory."""
        free, _ = torch.cuda.mem_get_info()
        one_call = torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()
        needed = 2 * one_call
        if self._graphs:
            needed = one_call  # they share their memory
        return free > needed


@dataclass(frozen=True)
class _Recording(Generic[Result]):
    """A graph, the fixed places of its inputs and of its result."""

    graph: torch.cuda.CUDAGraph
    inputs: StepInput
    result: Result

    def replay(self, step: StepInput) -> Result:
        # One call: each one takes Python's lock from the other threads.
        torch._foreach_copy_(_tensors(self.inputs), _tensors(step), non_blocking=True)
        with _gate.replay():
            self.graph.replay()
        return self.result


class _ReplayedFunction(Generic[Result]):
    """A function that becomes a graph for every shape of its inputs, once it is warmed up."""

    def __init__(self, recorder: GraphRecorder, function: Callable[[StepInput], Result]) -> None:
        self._recorder = recorder
        self._function = function
        self._calls: Counter[tuple[torch.Size, ...]] = Counter()
        self._recordings: dict[tuple[torch.Size, ...], _Recording[Result]] = {}

    def __call__(self, step: StepInput) -> Result:
        if self._recorder.stopped:
            return self._function(step)

        shapes = tuple(tensor.shape for tensor in _tensors(step))
        if shapes not in self._recordings:
            self._calls[shapes] += 1
            if self._calls[shapes] <= WARM_UP_CALLS:
                return self._function(step)

            recording = self._recorder.record(self._function, step)
            if recording is None:
                return self._function(step)
            self._recordings[shapes] = recording

        return self._recordings[shapes].replay(step)

    def forget(self) -> None:
        """Drop all recordings."""
        self._recordings.clear()


def _tensors(step: StepInput) -> list[Tensor]:
    return [value for value in step if isinstance(value, Tensor)]


def _copied(step: StepInput) -> StepInput:
    """Copies of the tensors, for a graph to read."""
    values = []
    for value in step:
        if isinstance(value, Tensor):
            value = value.clone()
        values.append(value)
    return StepInput._make(values)


def _clean_up(device: torch.device, pool: Any, graph: torch.cuda.CUDAGraph) -> None:
    """Undo what a recording that failed has left behind in torch.

    If CUDA itself refused an operation, some versions of torch still believe that they record.
    """
    index = torch.cuda.current_device()
    try:
        torch._C._cuda_endAllocateToPool(index, pool)
    except RuntimeError:
        pass  # torch did it itself
    else:
        torch._C._cuda_releasePool(index, pool)
    graph.reset()

    # So may the random generator. Another state with the same numbers to come replaces its own.
    generator = torch.cuda.default_generators[index]
    state = torch.Generator(device)
    state.manual_seed(generator.initial_seed())
    state.set_offset(generator.get_offset())
    generator.graphsafe_set_state(state)
