"""What else the machine does: timings beside heavy work mean little."""

import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psutil

BUSY_CORES = 0.5  # a process that uses more of one core counts as busy


def machine_load(window_s: float = 0.5) -> dict[str, Any]:
    """The load of the last minute, the number of cores, and which other processes are busy.

    `busy` has the name and the share of a core of every process that computes during the next
    `window_s` seconds. This process, its parents and its children do not count.
    """
    import psutil

    own = psutil.Process()
    family = {own, *own.parents(), *own.children(recursive=True)}

    start, before = time.monotonic(), _cpu_seconds()
    time.sleep(window_s)
    elapsed, after = time.monotonic() - start, _cpu_seconds()

    busy = []
    for process in after.keys() & before.keys() - family:
        cores = (after[process] - before[process]) / elapsed
        if cores > BUSY_CORES:
            busy.append(f"{_name(process)} {cores:.0%}")

    return {
        "load_1min": os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
        "cores": os.cpu_count() or 1,
        "busy": sorted(busy),
    }


def _cpu_seconds() -> dict["psutil.Process", float]:
    """The seconds that every process has computed since it began."""
    import psutil

    seconds = {}
    for process in psutil.process_iter():
        try:
            times = process.cpu_times()
        except psutil.Error:  # it has ended, or belongs to another user
            continue
        seconds[process] = times.user + times.system
    return seconds


def _name(process: "psutil.Process") -> str:
    import psutil

    try:
        return str(process.name())
    except psutil.Error:
        return "a process that has ended"
