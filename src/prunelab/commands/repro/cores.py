"""How many stages run at a time, and warnings if they must share cores or GPUs."""

from collections.abc import Iterator


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
        yield (
            f"{jobs} jobs x {threads} threads (runtime.threads) share {cores} cores. "
            "runtime.threads: 1 is faster, but it changes the last bits of all results."
        )

    if 0 < gpus < jobs:
        plural = "s" if gpus > 1 else ""
        yield f"{jobs} jobs share {gpus} GPU{plural} and their memory."
