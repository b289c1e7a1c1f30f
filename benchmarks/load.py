"""What much of everything takes: images, epochs, cells, and the report of many cells.

    python benchmarks/load.py images [1000000]    # tiny PNG files: checked, prepared, streamed
    python benchmarks/load.py epochs [50]         # whether the memory of a training stays flat
    python benchmarks/load.py cells [10 20 40]    # DVC and `prunelab repro`, by stages without work
    python benchmarks/load.py jobs [40 200]       # the same without `dvc repro` from nothing
    python benchmarks/load.py report [40 200]     # the pictures and the page of so many cells

In temporary clones of HEAD below --folder (the system's, else), which are removed; a million images
take 4 GB there. Memory is sampled over all processes; beside other work the seconds are worth
little, the memory no less. Sweeps are measured by sweep.py.
"""

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
from pipeline import clone
from ruamel.yaml import YAML
from watching import Watched, slope, watch

CLASSES, SIDE = 100, 8
METHODS = [
    f"{name}_channel"
    for name in ("random", "l1", "l2", "bn_scale", "taylor", "fpgm", "lamp", "wanda")
]
METHODS += ["random_unstructured", "l1_unstructured"]  # so cells come in tens
STUB = """#!/bin/sh
for out; do
    mkdir -p "$(dirname "$out")"
    case "$(basename "$out")" in
    *.json) echo '{"accuracy": 0.5}' > "$out" ;;
    *.*) echo "$out" > "$out" ;;
    *) mkdir -p "$out" && echo "$out" > "$out/0.safetensors" ;;
    esac
done
"""


def kind(command: str) -> str:
    """The stage, `dvc`, `prunelab`, or the like."""
    if match := re.search(
        r"prunelab\.stages\.(\w+)|prunelab\.running\.(worker)|-m (prunelab \w+)|/(dvc)\b", command
    ):
        return next(filter(None, match.groups()))
    return "others"


class Study:
    """A clone of HEAD with other parameters."""

    def __init__(self, folder: Path, **changes: object):
        self.folder = clone(folder)
        yaml = YAML()
        params = yaml.load(folder / "params.yaml")
        for place, value in changes.items():
            section, _, key = place.partition("__")
            (params[section] if key else params)[key or section] = value
        yaml.dump(params, folder / "params.yaml")

    def run(self, *command: str) -> Watched:
        return watch([*command], self.folder, kind, self.folder / "src")

    def stage(self, name: str, *arguments: str) -> Watched:
        return self.run(sys.executable, "-m", f"prunelab.stages.{name}", *arguments)


def make_images(folder: Path, count: int) -> None:
    """PNG files of random pixels, with a tint by class that can be learnt."""
    from PIL import Image

    random = np.random.default_rng(0)
    for label in range(CLASSES):
        (folder / f"{label:03}").mkdir(parents=True)
    for start in range(0, count, 10_000):
        pixels = random.integers(
            0, 128, (min(10_000, count - start), SIDE, SIDE, 3), dtype=np.uint8
        )
        for index, image in enumerate(pixels, start):
            label, encoded = index % CLASSES, BytesIO()
            image += np.array([label % 5, label // 5 % 5, label // 25], np.uint8) * 25
            Image.fromarray(image).save(encoded, "png", compress_level=1)
            (folder / f"{label:03}" / f"{index:07}.png").write_bytes(encoded.getbuffer())


def images(base: Path, counts: list[int]) -> None:
    for count in counts:
        source, start = base / f"images_{count}", time.perf_counter()
        make_images(source, count)
        print(
            f"{count:,} images of {SIDE}x{SIDE} made in {time.perf_counter() - start:,.0f} s",
            flush=True,
        )
        study = Study(
            base / f"study_{count}",
            dataset="imagefolder",
            seeds=[0],
            data__source=str(source),
            data__resize=SIDE,
            data__memory_mb=16,
            train__epochs=1,
            train__batch_size=1000,
            evaluate__batch_size=1000,
            evaluate__bootstrap_samples=1000,
        )
        print(
            f"  prunelab check: {study.run(sys.executable, '-m', 'prunelab', 'check')}", flush=True
        )
        for stage in ("prepare", "train_base", "evaluate_base"):
            print(
                f"  dvc repro {stage}: {study.run('dvc', 'repro', '--single-item', stage)}",
                flush=True,
            )
        print(
            "  dvc repro evaluate_base, nothing to do: "
            f"{study.run('dvc', 'repro', 'evaluate_base')}"
        )
        prepared = [file for file in (study.folder / "data/prepared").rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in prepared) / 2**20
        cached = sum(file.is_file() for file in (study.folder / ".dvc/cache").rglob("*"))
        print(
            f"  prepared: {len(prepared)} files, {size:,.0f} MiB; in DVC's cache: {cached} files",
            flush=True,
        )


def epochs(base: Path, counts: list[int]) -> None:
    for count in counts:
        study = Study(base / f"epochs_{count}", seeds=[0], train__epochs=count)
        study.stage("prepare", "data/raw", "data/prepared")
        took = study.stage("train_base", "data/prepared", "models/base", "models/history.json")
        per_epoch = 1024 * slope(took.samples) * took.seconds / count
        print(f"{count} epochs: {took}; memory grows by {per_epoch:,.1f} KiB an epoch", flush=True)


def ratios(cells: int) -> list[float]:
    return [
        round(0.1 + 0.8 * number / (cells // len(METHODS)), 4)
        for number in range(cells // len(METHODS))
    ]


def stubbed(folder: Path, cells: int) -> Study:
    """The study's own pipeline, with all it depends on, of stages that write next to nothing."""
    study = Study(folder, grid__methods=METHODS, grid__ratios=ratios(cells))
    yaml = YAML()
    pipeline = yaml.load(folder / "dvc.yaml")
    for stage in pipeline["stages"].values():
        listed = [out for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])]
        paths = [out if isinstance(out, str) else next(iter(out)) for out in listed]
        stage["cmd"] = f"sh stub.sh {' '.join(paths)}"
    yaml.dump(pipeline, folder / "dvc.yaml")
    (folder / "stub.sh").write_text(STUB)
    return study


def cells(base: Path, counts: list[int], *, serially: bool = True) -> None:
    """By DVC alone too, if `serially`: hours for hundreds of cells."""
    rows: dict[str, list[float]] = {}
    prunelab = (sys.executable, "-m", "prunelab")
    for count in counts:
        study = stubbed(base / f"jobs_{count}", count)
        commands = {
            "prunelab check": (study, [*prunelab, "check"]),
            "prunelab repro --jobs 2": (study, [*prunelab, "repro", "--jobs", "2"]),
            "dvc repro, nothing to do": (study, ["dvc", "repro"]),
        }
        if serially:
            commands["dvc repro, from nothing"] = (
                stubbed(base / f"serial_{count}", count),
                ["dvc", "repro"],
            )
        for what, (where, command) in commands.items():
            took = where.run(*command)
            print(f"{count} cells, {what}: {took}", flush=True)
            rows.setdefault(f"{what}, s", []).append(took.seconds)
            rows.setdefault(f"{what}, peak MiB", []).append(took.peak)
        rows.setdefault("dvc.lock, kB", []).append(
            (study.folder / "dvc.lock").stat().st_size / 1000
        )
    table(counts, rows)


def report(base: Path, counts: list[int]) -> None:
    """The page of ever more cells, whose results are the committed ones over and over."""
    project, rows = Path(__file__).parent.parent, {}
    study = Study(base / "report")
    study.stage("prepare", "data/raw", "data/prepared")
    for count in counts:
        wanted = [f"{method}-{ratio}" for ratio in ratios(count) for method in METHODS]
        known = sorted(path.stem for path in (project / "metrics/grid").glob("*.json"))
        copies = {name: known[number % len(known)] for number, name in enumerate(wanted)}
        fill(project, study.folder, copies, ratios(count))
        took = study.stage("report", "data/prepared", "metrics", "plots", "plots/report.html")
        print(f"{count} cells, the page: {took}", flush=True)
        rows.setdefault("the page, s", []).append(took.seconds)
        rows.setdefault("the page, peak MiB", []).append(took.peak)
        rows.setdefault("the page, MB", []).append(
            (study.folder / "plots/report.html").stat().st_size / 1e6
        )
    table(counts, rows)


def fill(project: Path, folder: Path, copies: dict[str, str], shares: list[float]) -> None:
    """Write the results that the report reads, those of every cell copied from a known one."""
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    params["grid"]["methods"], params["grid"]["ratios"] = METHODS, shares
    yaml.dump(params, folder / "params.yaml")

    def read(path: str) -> object:
        return json.loads((project / path).read_text())

    def write(path: str, content: object) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(json.dumps(content))

    for path in ("metrics/base.json", "metrics/sensitivity.json", "metrics/details/base.json"):
        write(path, read(path))
    write("plots/dense_confusion.json", read("plots/dense_confusion.json"))
    points = {f"{row['method']}-{row['ratio']}": row for row in read("plots/tradeoff.json")}
    cells = [(method, ratio) for method in METHODS for ratio in shares]
    known = [points[copies[f"{method}-{ratio}"]] for method, ratio in cells]
    write(
        "plots/tradeoff.json",
        [row | {"method": m, "ratio": r} for (m, r), row in zip(cells, known, strict=True)],
    )
    curves = read("plots/training.json")
    write(
        "plots/training.json",
        [row | {"group": f"{row['group']} {share}"} for share in shares for row in curves[:16]],
    )
    for name, copied in copies.items():
        write(f"metrics/details/grid/{name}.json", read(f"metrics/details/grid/{copied}.json"))
    speed = read("metrics/speed/benchmark.json")
    for key in ("latency", "memory", "operators"):
        if key in speed:
            rows = {
                name: [row for row in speed[key] if row["name"] == name]
                for name in {"dense", *copies.values()}
            }
            copied = [row | {"name": name} for name, known in copies.items() for row in rows[known]]
            speed[key] = [*rows["dense"], *copied]
    write("metrics/speed/benchmark.json", speed)


def table(counts: list[int], rows: dict[str, list[float]]) -> None:
    """What was measured, and how it grows: the power of the number by a line through the
    logarithms.
    """
    print(f"\n| | {' | '.join(map(str, counts))} | grows with |\n|:--|{'--:|' * (len(counts) + 1)}")
    for what, values in rows.items():
        line = np.polyfit(np.log(counts), np.log(values), 1) if len(counts) > 1 else [np.nan]
        print(f"| {what} | {' | '.join(f'{value:,.1f}' for value in values)} | n^{line[0]:.2f} |")


PARTS: dict[str, tuple[Callable[[Path, list[int]], None], list[int]]] = {
    "images": (images, [1_000_000]),
    "epochs": (epochs, [50]),
    "cells": (cells, [10, 20, 40]),
    "jobs": (partial(cells, serially=False), [40, 200]),
    "report": (report, [40, 200]),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("counts", nargs="*", type=int)
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    asked = parser.parse_args()
    act, usual = PARTS[asked.part]
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start", flush=True)
    with tempfile.TemporaryDirectory(dir=asked.folder) as temporary:
        partial(act, Path(temporary))(asked.counts or usual)


if __name__ == "__main__":
    main()
