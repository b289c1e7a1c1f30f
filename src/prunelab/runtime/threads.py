"""How many threads compute, which decides in which order sums are added."""

import ctypes
from pathlib import Path

import torch

from prunelab.core.errors import InputError

LIMIT_VARIABLE = "OMP_THREAD_LIMIT"


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
    limit = int(openmp.omp_get_thread_limit())
    if limit < count:
        raise InputError(
            f"runtime.threads: {count} threads cannot be had, as {LIMIT_VARIABLE} allows {limit}; "
            f"unset {LIMIT_VARIABLE}, or set runtime.threads to {limit}, which gives other bits"
        )


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
