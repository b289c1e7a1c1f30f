"""The peak memory of inference, without the weights and the inputs."""

import ctypes
import multiprocessing
import platform
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import ForkContext, ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from torch import nn

from prunelab.benchmarking.backends import Runnable, eager, inputs_of
from prunelab.core.cores import available_cores
from prunelab.core.lifecycle import describe_exit
from prunelab.models.catalogue import Shape
from prunelab.runtime.device import Execution

Load = Callable[[], nn.Module]  # reads a network, on the CPU and in evaluation mode

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
THREADS = Path("/proc/self/task")
RESET_PEAK = "5"
MAX_AT_A_TIME = 2  # child processes: each has the memory that is measured


def peaks(
    execution: Execution, loads: Sequence[Load], shape: Shape, batch_size: int
) -> list[int | None]:
    """Measure the peak of one batch for every network, less what was there before, in bytes.

    On a GPU it is the peak of torch's allocator. On a CPU it is the peak resident set of a child
    process, a fresh one each time, because used memory is seldom given back; two run at a time if
    there are cores for them. Elsewhere than on Linux the peak cannot be reset, and it is None.
    """
    if execution.device.type == "cuda":
        return [_measure_allocated(execution, load, shape, batch_size) for load in loads]
    if not RESET.exists():
        return [None for _ in loads]

    context = _context()
    threads = torch.get_num_threads()
    at_a_time = max(1, min(MAX_AT_A_TIME, len(available_cores()) // threads))

    found: list[int | None] = []
    running: deque[tuple[Connection, BaseProcess]] = deque()
    try:
        for load in loads:
            if len(running) == at_a_time:
                found.append(_receive_result(*running.popleft()))
            job = partial(_measure_resident, execution, threads, load, shape, batch_size)
            running.append(_start(context, job))
        while running:
            found.append(_receive_result(*running.popleft()))
    finally:
        for receiver, process in running:  # one of them has failed
            process.kill()
            process.join()
            receiver.close()
    return found


def _start(
    context: ForkContext | ForkServerContext, job: Callable[[], int]
) -> tuple[Connection, BaseProcess]:
    """Run a job in a child process; returns the connection that will have its result."""
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_result, args=(sender, job), daemon=True)
    process.start()
    sender.close()
    return receiver, process


def _context() -> ForkContext | ForkServerContext:
    """How children start: as forks of this process, if it has one thread and so can be forked.

    Otherwise they are forks of a server, which imports torch once and computes nothing.
    """
    if len(list(THREADS.iterdir())) == 1:
        return multiprocessing.get_context("fork")

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _send_result(sender: Connection, job: Callable[[], int]) -> None:
    result: int | Exception
    try:
        result = job()
    except Exception as error:  # raised by the parent
        result = error
    sender.send(result)


def _receive_result(receiver: Connection, process: BaseProcess) -> int:
    """What the child sent, or raise the error that it sent.

    Raises:
        ChildProcessError: if it ended before it sent anything.
    """
    try:
        result: int | Exception = receiver.recv()
    except EOFError:
        process.join()
        assert process.exitcode is not None
        how = describe_exit(process.exitcode)
        raise ChildProcessError(f"the process that measures peak memory {how}") from None
    finally:
        receiver.close()
    process.join()

    if isinstance(result, Exception):
        raise result
    return result


def _measure_allocated(execution: Execution, load: Load, shape: Shape, batch_size: int) -> int:
    call = _load_runnable(execution, load, shape, batch_size)
    call()  # libraries allocate workspaces, which stay

    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()

    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _measure_resident(
    execution: Execution, threads: int, load: Load, shape: Shape, batch_size: int
) -> int:
    torch.set_num_threads(threads)
    call = _load_runnable(execution, load, shape, batch_size)
    call()  # threads and kernels stay; a batch of one would have others

    # Freed memory that the process still holds would hide what the call needs.
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    RESET.write_text(RESET_PEAK)
    before = _status_bytes("VmRSS")

    call()
    return max(0, _status_bytes("VmHWM") - before)


def _load_runnable(execution: Execution, load: Load, shape: Shape, batch_size: int) -> Runnable:
    model = execution.place(load())
    return eager(model, inputs_of(shape, batch_size, execution), execution)


def _status_bytes(key: str) -> int:
    """A size of this process as Linux reports it: VmRSS is resident now, VmHWM the peak."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"{STATUS} has no {key}")
