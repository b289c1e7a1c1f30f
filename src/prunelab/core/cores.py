"""Which CPU cores processes may use, and how they are shared."""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from prunelab.core.errors import InputError

THREAD_LIMIT = "OMP_THREAD_LIMIT"  # a variable that OpenMP reads when it is loaded


def available_cores() -> list[int]:
    """Return the cores that this process may use; none if the system does not let us choose."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    return sorted(os.sched_getaffinity(0))


def refuse_threads(count: int, limit: int) -> None:
    """Raise an error if OpenMP may not use as many threads as `runtime.threads` says.

    Raises:
        InputError: if `limit` is lower than `count`.
    """
    if limit < count:
        raise InputError(
            f"runtime.threads: {count} threads cannot be had, as {THREAD_LIMIT} allows {limit}; "
            f"unset {THREAD_LIMIT}, or set runtime.threads to {limit}, which gives other bits"
        )


def core_shares(cores: Sequence[int], count: int) -> list[Sequence[int]]:
    """Divide cores among `count` processes as evenly as possible.

    If there are more processes than cores, several processes share a core.
    """
    if not cores:
        return [[]] * count
    if count > len(cores):
        return [[cores[index % len(cores)]] for index in range(count)]
    if count == 0:
        return []
    bounds = [index * len(cores) // count for index in range(count + 1)]
    return [cores[start:end] for start, end in pairwise(bounds)]


def pin(pid: int, cores: Iterable[int]) -> None:
    """Keep a process and all its descendants on these cores, with all their threads.

    Threads and processes that they start later inherit the setting.
    """
    import psutil

    allowed = list(cores)
    with suppress(psutil.NoSuchProcess):
        descendants = psutil.Process(pid).children(recursive=True)
        for process_id in [pid, *(child.pid for child in descendants)]:
            for thread in Path(f"/proc/{process_id}/task").glob("*"):
                with suppress(ProcessLookupError):  # it ended meanwhile
                    os.sched_setaffinity(int(thread.name), allowed)
