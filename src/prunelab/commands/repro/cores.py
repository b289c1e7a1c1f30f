"""How many stages run at a time, and warnings if they must share cores or GPUs."""

from collections.abc import Iterator

from prunelab.core.plurals import counted


def default_jobs(cores: int, threads: int, gpus: int) -> int:
    """How many stages of so many threads the cores can run at a time; at least one.

    On a machine with GPUs it is at most one for each of them.
    """
    jobs = max(1, cores // threads)
    if gpus:
        jobs = min(jobs, gpus)
    return jobs


def sharing_warnings(jobs: int, threads: int, cores: int, gpus: int) -> Iterator[str]:
    """Yield a line if `jobs` stages of `threads` threads each must share cores or GPUs."""
    if jobs > 1 and cores < jobs * threads:
        of_each = counted(threads, "thread")
        line = f"{jobs} jobs x {of_each} (runtime.threads) share {counted(cores, 'core')}."
        if threads > 1:
            line += " runtime.threads: 1 is faster, but it changes the last bits of all results."
        yield line

    if 0 < gpus < jobs:
        memory = "GPUs and their memory" if gpus > 1 else "GPU and its memory"
        yield f"{jobs} jobs share {gpus} {memory}."
