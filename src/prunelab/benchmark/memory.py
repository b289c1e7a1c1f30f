"""How much memory inference needs at most, the weights and the inputs left out."""

import ctypes
import multiprocessing
import platform
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import nn

from prunelab.benchmark.backends import eager, inputs_of
from prunelab.models.catalogue import Shape
from prunelab.runtime.device import Execution

Load = Callable[[], nn.Module]  # a network on the CPU, in evaluation mode
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@contextmanager
def meter(execution: Execution) -> Iterator[Callable[[Load, Shape, int], int | None]]:
    """Hands out what measures, in bytes: the peak of a batch of so many inputs, less what was there before.

    On a GPU by the allocator's peak. On a CPU by the peak resident set of a child process, a fresh one each time, since
    memory once used is seldom given back; None where the system tells no peak that can be reset (other than Linux).
    """
    if execution.device.type == "cuda":
        yield partial(_allocated, execution)
        return
    if not RESET.exists():
        yield lambda load, shape, batch_size: None
        return
    # The server imports torch once and computes nothing, so that it has no threads and can be forked safely.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as children:
        threads = torch.get_num_threads()

        def measure(load: Load, shape: Shape, batch_size: int) -> int:
            return children.submit(_resident, execution, threads, load, shape, batch_size).result()

        yield measure


def _allocated(execution: Execution, load: Load, shape: Shape, batch_size: int) -> int:
    call = eager(execution.place(load()), inputs_of(shape, batch_size, execution), execution)
    call()  # workspaces of libraries, which stay
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _resident(execution: Execution, threads: int, load: Load, shape: Shape, batch_size: int) -> int:
    torch.set_num_threads(threads)
    model = execution.place(load())
    call = eager(model, inputs_of(shape, batch_size, execution), execution)
    call()  # threads and kernels, which stay, and are others for a batch of one
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(
            0
        )  # freed memory that the process still holds would hide what the call takes
    RESET.write_text("5")  # the peak starts anew at what is resident now
    before = _status("VmRSS")
    call()
    return max(0, _status("VmHWM") - before)


def _status(key: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{key}:"))
    return 1024 * int(line.split()[1])
