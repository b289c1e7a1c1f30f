"""What else the machine is doing: timings taken beside heavy work say little."""

import os
import time
from typing import Any

BUSY = 0.5  # of one core


def machine_load(window_s: float = 0.5) -> dict[str, Any]:
    """Runnable processes in the last minute, the number of cores, and the names of other processes that compute now."""
    import psutil

    def seconds() -> dict[psutil.Process, float]:
        spent = {}
        for process in psutil.process_iter():
            try:
                times = process.cpu_times()
                spent[process] = times.user + times.system
            except psutil.Error:  # gone, or none of our business
                continue
        return spent

    ours = psutil.Process()
    family = {ours, *ours.parents(), *ours.children(recursive=True)}
    before, start = seconds(), time.monotonic()
    time.sleep(window_s)
    passed, after = time.monotonic() - start, seconds()
    shares = {
        p: (after[p] - before[p]) / passed for p in after.keys() & before.keys() if p not in family
    }
    return {
        "load_1min": os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
        "cores": os.cpu_count() or 1,
        "busy": sorted(
            f"{_name(process)} {share:.0%}" for process, share in shares.items() if share > BUSY
        ),
    }


def _name(process: Any) -> str:
    import psutil

    try:
        return process.name()
    except psutil.Error:
        return "a process that has ended"
