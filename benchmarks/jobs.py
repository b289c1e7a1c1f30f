"""What several stages at a time are worth: `prunelab repro --jobs N` against `prunelab check && dvc
repro`, as ratios.

    python benchmarks/jobs.py 1 2 4

First pipelines of stages that do nothing, in which all time is DVC's and ours; then the study's own
pipeline, small (one seed, 4 methods, few epochs, runtime.threads 1), from nothing in temporary
clones of HEAD. The number of cores is printed with the ratios, and whether all results are those of
the serial run. The environment's own DVC is used.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipeline import clone
from ruamel.yaml import YAML

CLOCKED = ("benchmark", "report")  # hold times, which no two runs share
IDLE_STAGES = 24


def idle(folder: Path, params: Path) -> Path:
    """Stages that do nothing, side by side between a first and a last one."""
    folder.mkdir()
    stages = {
        "first": {"cmd": "echo 1 > first", "params": ["seeds"], "outs": ["first"]},
        "cell": {
            "matrix": {"number": list(range(IDLE_STAGES))},
            "cmd": "mkdir -p cells && cp first cells/${key}",
            "deps": ["first"],
            "outs": ["cells/${key}"],
        },
        "last": {"cmd": "ls cells > last", "deps": ["cells"], "outs": ["last"]},
    }
    YAML().dump({"stages": stages}, folder / "dvc.yaml")
    (folder / "params.yaml").write_text(params.read_text())
    subprocess.run(
        [sys.executable, "-m", "dvc", "init", "--quiet", "--no-scm"], cwd=folder, check=True
    )
    return folder


def study(folder: Path) -> Path:
    clone(folder)
    yaml = YAML()
    path = folder / "params.yaml"
    params = yaml.load(path)
    params["seeds"] = [0]
    params["grid"]["ratios"] = [0.5]
    params["train"]["epochs"] = 6
    params["finetune"]["epochs"] = 4
    params["runtime"]["threads"] = 1
    params["benchmark"] |= {"rounds": 2, "seconds": 0.05, "batch_sizes": [1]}
    yaml.dump(params, path)
    return folder


def timed(folder: Path, source: Path, jobs: int | None) -> float:
    """Wall seconds of a run; without a number of jobs, of DVC's own."""
    command = "prunelab check && dvc repro" if jobs is None else f"prunelab repro --jobs {jobs}"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    start = time.perf_counter()
    done = subprocess.run(
        command.replace("prunelab", f"{sys.executable} -m prunelab"),
        shell=True,
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return seconds


def results(folder: Path) -> dict:
    stages = YAML(typ="safe").load(folder / "dvc.lock")["stages"]
    return {name: entry for name, entry in stages.items() if name not in CLOCKED}


def compare(title: str, serial: Path, others: dict[int, Path], source: Path) -> None:
    base = timed(serial, source, None)
    count = len(YAML(typ="safe").load(serial / "dvc.lock")["stages"])
    print(f"{title}, {count} stages: serial {base:.0f} s, {base / count:.2f} s a stage", flush=True)
    for jobs, folder in others.items():
        seconds = timed(folder, source, jobs)
        same = "same results" if results(folder) == results(serial) else "OTHER RESULTS"
        print(
            f"  --jobs {jobs}: {seconds:.0f} s, {seconds / count:.2f} s a stage, "
            f"{base / seconds:.2f}x, {same}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("jobs", nargs="+", type=int, help="numbers of stages at a time")
    numbers = parser.parse_args().jobs
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start"
    )
    source = Path(__file__).parent.parent / "src"
    params = Path(__file__).parent.parent / "params.yaml"
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        others = {jobs: idle(base / f"idle{jobs}", params) for jobs in numbers}
        compare("Stages that do nothing", idle(base / "idle", params), others, source)
        others = {jobs: study(base / f"study{jobs}") for jobs in numbers}
        compare("A small study", study(base / "study"), others, source)


if __name__ == "__main__":
    main()
