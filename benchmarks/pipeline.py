"""Where the time of the default study goes: shares of training, of start-up and of DVC, and what
doing nothing costs.

    python benchmarks/pipeline.py

Runs `dvc repro` from nothing in a temporary clone of HEAD, then once more with nothing to do, then
in a second clone with no epochs at all: what a stage takes there is its overhead (start of Python
and torch, reading, checking, writing, and the evaluation of a small test split); what it takes
longer in the first clone is training. A shim around `python` takes the times, so that no code under
measurement knows of it. The environment's own DVC is used; about ten minutes.
"""

import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean, median

SHIM = """#!/bin/sh
start=$(date +%s.%N)
{python} "$@"
status=$?
echo "$start $(date +%s.%N) $*" >> {log}
exit $status
"""


def clone(folder: Path) -> Path:
    project = Path(__file__).parent.parent
    subprocess.run(["git", "clone", "--quiet", str(project), str(folder)], check=True)
    for result in (
        "dvc.lock",
        "metrics",
        "plots",
    ):  # from nothing: no lock to compare with, nothing to reuse
        subprocess.run(["git", "rm", "-rq", result], cwd=folder, check=True)
    return folder


def timed(command: list[str], folder: Path, path: str) -> float:
    environment = {**os.environ, "PATH": path}
    environment.pop("PYTHONPATH", None)
    start = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return seconds


def commands(log: Path) -> dict[str, list[float]]:
    """Seconds of every stage command, by the stage's module."""
    seconds = defaultdict(list)
    for line in log.read_text().splitlines():
        start, end, *arguments = line.split()
        if match := re.search(r"prunelab\.stages\.(\w+)", " ".join(arguments)):
            seconds[match[1]].append(float(end) - float(start))
    return seconds


def measured_repro(folder: Path, shims: Path, name: str) -> tuple[float, dict[str, list[float]]]:
    """Wall seconds of `dvc repro` from nothing, and those of its commands."""
    shim, log = shims / name / "python", shims / f"{name}.log"
    shim.parent.mkdir(parents=True)
    shim.write_text(SHIM.format(python=sys.executable, log=log))
    shim.chmod(0o755)
    path = os.pathsep.join([str(shim.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    return timed(["dvc", "repro"], folder, path), commands(log)


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        full = clone(base / "full")
        total, stages = measured_repro(full, base / "shims", "full")
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        noop = [timed(["dvc", "repro"], full, path) for _ in range(3)]

        bare = clone(base / "bare")
        params = bare / "params.yaml"
        params.write_text(re.sub(r"epochs: \d+", "epochs: 0", params.read_text()))
        _, overheads = measured_repro(bare, base / "shims", "bare")

    print(f"{platform.machine()}, {os.cpu_count()} cores")
    print(f"dvc repro from nothing: {total:.0f} s; with nothing to do: {median(noop):.1f} s")
    inside = sum(map(sum, stages.values()))
    start_up = sum(map(sum, overheads.values()))
    shares = {"training": inside - start_up, "overhead of stages": start_up, "DVC": total - inside}
    for name, seconds in shares.items():
        print(f"  {name}: {seconds:.0f} s, {seconds / total:.0%}")
    print("stage command: times run, seconds each, of which overhead")
    for name, seconds in stages.items():
        print(f"  {name}: {len(seconds)}, {mean(seconds):.1f}, {mean(overheads[name]):.1f}")


if __name__ == "__main__":
    main()
