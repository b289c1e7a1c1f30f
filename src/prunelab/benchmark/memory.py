"""The peak memory of inference, without the weights and the inputs."""

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

from prunelab.benchmark.backends import Runnable, eager, inputs_of
from prunelab.models.catalogue import Shape
from prunelab.runtime.device import Execution

Load = Callable[[], nn.Module]  # reads a network, on the CPU and in evaluation mode
Measure = Callable[[Load, Shape, int], int | None]  # of a network at a batch size, in bytes

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"


@contextmanager
def meter(execution: Execution) -> Iterator[Measure]:
    """Provide a function that measures the peak of one batch, less what was there before.

    On a GPU it is the peak of torch's allocator. On a CPU it is the peak resident set of a child
    process, a fresh one each time, because used memory is seldom given back. Elsewhere than on
    Linux the peak cannot be reset, and the function returns None.
    """
    if execution.device.type == "cuda":
        yield partial(_measure_allocated, execution)
        return
    if not RESET.exists():
        yield lambda load, shape, batch_size: None
        return

    # The server imports torch once and computes nothing. So it has no threads and can be forked
    # safely.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])

    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as children:
        threads = torch.get_num_threads()

        def measure(load: Load, shape: Shape, batch_size: int) -> int:
            job = children.submit(_measure_resident, execution, threads, load, shape, batch_size)
            return job.result()

        yield measure


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
