"""How many threads compute, which decides in which order sums are added."""

import ctypes
from pathlib import Path

import torch

from prunelab.core.cores import refuse_threads


def set_threads(count: int) -> None:
    """Let torch compute with as many threads, neither more nor fewer, however busy the machine is.

    Args:
        count: at least 1; more than there are cores are as many threads all the same

    Raises:
        InputError: if OpenMP was started with a limit that is lower.
    """
    torch.set_num_threads(count)
    openmp = _openmp()
    if openmp is None:
        return

    openmp.omp_set_dynamic(0)  # or it would take fewer where other programs compute
    refuse_threads(count, int(openmp.omp_get_thread_limit()))


def _openmp() -> ctypes.CDLL | None:
    """The OpenMP that torch computes with; None if it cannot be asked."""
    library = Path(torch.__file__).parent / "lib/libtorch_cpu.so"
    try:
        openmp = ctypes.CDLL(str(library))
    except OSError:
        return None
    if not hasattr(openmp, "omp_set_dynamic") or not hasattr(openmp, "omp_get_thread_limit"):
        return None
    return openmp
