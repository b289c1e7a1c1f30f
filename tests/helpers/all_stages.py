"""All stages of the pipeline, one after another in a single process, which loads torch once.

`python -m helpers.all_stages COMMANDS FOLDER...` runs in every folder the commands that a JSON file
holds for it. With `--reversed`, folders list their files in another order.
"""

import argparse
import contextlib
import json
import os
import re
import runpy
import shlex
import sys
from itertools import product
from pathlib import Path
from typing import Any

from helpers.repository import STAGES
from prunelab.core.lifecycle import set_load_time_variables

STAGE = "prunelab.stages"


def stage_commands(params: dict) -> list[list[str]]:
    """Module and arguments of every stage of dvc.yaml that computes, and by no clock."""
    commands = []
    for name, stage in STAGES.items():
        if name in ("code", "benchmark", "report"):
            continue
        cells = [{}]
        if "matrix" in stage:
            cells = _cells(params)

        lines = stage["cmd"] if isinstance(stage["cmd"], list) else [stage["cmd"]]
        for cell, line in product(cells, lines):
            values = {**cell, "method": params["method"], "ratio": params["ratio"]}
            text = re.sub(r"\$\{(.+?)\}", lambda match: str(values[match[1]]), line)  # noqa: B023
            _, _, command = text.partition(f"-m {STAGE} ")
            if command:
                commands.append(shlex.split(command))
    return commands


def _cells(params: dict) -> list[dict]:
    grid = params["grid"]
    cells = []
    for method, ratio in product(grid["methods"], grid["ratios"]):
        cells.append({"item.method": method, "item.ratio": ratio, "key": f"{method}-{ratio}"})
    return cells


def run(folder: Path, commands: list[list[str]]) -> None:
    """Run stages in a folder, each as its command would."""
    with contextlib.chdir(folder):
        for name, *arguments in commands:
            print(f"{folder.name}: {name}", file=sys.stderr, flush=True)
            sys.argv = [name, *arguments]
            try:
                runpy.run_module(f"{STAGE}.{name}", run_name="__main__")
            except SystemExit as end:
                if end.code:
                    raise


class _ReversedScan:
    """What `os.scandir` returns, from its end."""

    def __init__(self, scan: Any) -> None:
        with scan:
            self._entries = iter(list(scan)[::-1])

    def __enter__(self) -> "_ReversedScan":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> "_ReversedScan":
        return self

    def __next__(self) -> os.DirEntry:
        return next(self._entries)

    def close(self) -> None:
        pass


def list_in_reverse() -> None:
    """Have folders list their files in the order that is the reverse of the file system's."""
    listdir, scandir = os.listdir, os.scandir
    os.listdir = lambda *arguments: listdir(*arguments)[::-1]
    os.scandir = lambda *arguments: _ReversedScan(scandir(*arguments))


def main() -> None:
    assert "numpy" not in sys.modules
    set_load_time_variables()  # as every stage does that is started by itself

    parser = argparse.ArgumentParser()
    parser.add_argument("commands", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--reversed", action="store_true")
    arguments = parser.parse_args()

    if arguments.reversed:
        list_in_reverse()
    commands = json.loads(arguments.commands.read_text())
    for folder in arguments.folders:
        run(folder, commands[folder.name])


if __name__ == "__main__":
    main()
