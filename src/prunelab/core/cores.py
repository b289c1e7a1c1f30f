"""Which CPU cores processes may use, and how they are shared."""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path


def available_cores() -> list[int]:
    """Return the cores that this process may use; none if the system does not let us choose."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    return sorted(os.sched_getaffinity(0))


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
