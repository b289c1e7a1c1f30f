"""What workers share out among them: the machine's cores and its GPUs."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import psutil


def cores() -> list[int]:
    """The cores this process may use; none where the system does not let processes choose."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []


def core_shares(cores: Sequence[int], count: int) -> list[Sequence[int]]:
    """Deal cores to `count` processes, as evenly as it goes; where there are too few, several get the same."""
    if not cores:
        return [[]] * count
    if count > len(cores):
        return [[cores[place % len(cores)]] for place in range(count)]
    bounds = [place * len(cores) // count for place in range(count + 1)] if count else []
    return [cores[start:end] for start, end in pairwise(bounds)]


def pin(process: int, cores: Iterable[int]) -> None:
    """Keep a process, all below it and all their threads on these cores; what they start later stays there too."""
    with suppress(psutil.NoSuchProcess):
        tree = [process, *(child.pid for child in psutil.Process(process).children(recursive=True))]
        for thread in (
            int(thread.name) for its in tree for thread in Path(f"/proc/{its}/task").glob("*")
        ):
            with suppress(ProcessLookupError):  # it ended meanwhile
                os.sched_setaffinity(thread, cores)


def crowded(jobs: int, threads: int, cores: int, gpus: int) -> Iterator[str]:
    """What is to be said before stages of so many threads share so many cores and GPUs."""
    if jobs > 1 and cores < jobs * threads:
        yield (
            f"{jobs} jobs x {threads} threads (runtime.threads) share {cores} cores; runtime.threads: 1 is faster "
            "then, but rounds otherwise, so that all results change in their last bits"
        )
    if 0 < gpus < jobs:
        yield f"{jobs} jobs share {gpus} GPU{'s' * (gpus > 1)} in turn, and their memory"
