"""Memory of a command and of all it starts, sampled from /proc while it runs."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

EVERY_S = 0.1


@dataclass
class Watched:
    """What a command took. Memory is anonymous: pages of a mapped file are the system's to drop.

    `peaks` holds the most, in MiB, that a process of each kind had at a time, `peak` the most of
    all together, and `samples` (seconds since the start, MiB) of the largest process at each time.
    """

    seconds: float = 0.0
    peak: float = 0.0
    peaks: dict[str, float] = field(default_factory=dict)
    samples: list[tuple[float, float]] = field(default_factory=list)

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind} {peak:,.0f}" for kind, peak in self.peaks.items() if peak >= 10)
        return f"{self.seconds:,.1f} s, peak {self.peak:,.0f} MiB ({kinds})"


def watch(command: list[str], folder: Path, kind: Callable[[str], str], source: Path) -> Watched:
    """Run a command with the package in `source`; `kind` names a process by its command line."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(source)}
    found, start, log = Watched(), time.perf_counter(), folder / ".watched.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=output
        )
        while process.poll() is None:
            sizes = [(_anonymous(pid), kind(_command(pid))) for pid in _tree(process.pid)]
            if sizes:
                found.samples.append((time.perf_counter() - start, max(size for size, _ in sizes)))
                found.peak = max(found.peak, sum(size for size, _ in sizes))
            for size, name in sizes:
                found.peaks[name] = max(found.peaks.get(name, 0), size)
            time.sleep(EVERY_S)
    found.seconds = time.perf_counter() - start
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{log.read_text()[-3000:]}")
    return found


def slope(samples: list[tuple[float, float]]) -> float:
    """MiB per second by a straight line through the second half of the samples: by then all is set
    up.
    """
    half = np.array(samples[len(samples) // 2 :])
    return float(np.polyfit(half[:, 0], half[:, 1], 1)[0])


def _tree(pid: int) -> Iterator[int]:
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from _tree(int(child))


def _anonymous(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon:")), 0.0)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""
