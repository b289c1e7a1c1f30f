"""What else the machine does: timings beside heavy work mean little."""

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psutil

BUSY_CORES = 0.5  # others that use more of one core together make the machine busy
WINDOW_S = 0.5  # the least time over which others are watched
NAMED_CORES = 0.1  # the least share of a core of a process that is named by itself


Load = dict[str, Any]


def machine_load(window_s: float = WINDOW_S) -> Load:
    """The load of the last minute, the number of cores, and which other processes compute.

    If other processes together use more than half a core during the next `window_s` seconds, `busy`
    has their names and shares of a core, the largest first. (Each by itself may use little: on a
    crowded machine all do, and then it has one entry for all of them together.) This process, its
    parents and its children do not count.
    """
    return watch_machine(window_s)()


def watch_machine(window_s: float = WINDOW_S) -> Callable[[], Load]:
    """Return a function for the load of `machine_load` from now until it is called.

    It waits until there have been `window_s` seconds.
    """
    import psutil

    own = psutil.Process()
    start, before = time.monotonic(), _cpu_seconds()

    def load() -> Load:
        time.sleep(max(0.0, start + window_s - time.monotonic()))
        elapsed, after = time.monotonic() - start, _cpu_seconds()
        family = {own, *own.parents(), *own.children(recursive=True)}

        shares = {}
        for process in after.keys() & before.keys() - family:
            shares[process] = (after[process] - before[process]) / elapsed

        busy = []
        if sum(shares.values()) > BUSY_CORES:
            named = [(_name(process), cores) for process, cores in shares.items()]
            named.sort(key=lambda entry: (-entry[1], entry[0]))
            busy = [f"{name} {cores:.0%}" for name, cores in named if cores > NAMED_CORES]
            if not busy:
                count = sum(cores > 0 for cores in shares.values())
                busy = [f"{count} processes together {sum(shares.values()):.0%}"]

        return {
            "load_1min": os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
            "cores": os.cpu_count() or 1,
            "busy": busy,
        }

    return load


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
