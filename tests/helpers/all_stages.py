"""All stages of the pipeline, one after another in a single process, which loads torch once.

`python -m helpers.all_stages COMMANDS FOLDER...` runs in every folder the commands that a JSON file
holds for it.
"""

import contextlib
import json
import re
import runpy
import shlex
import sys
from itertools import product
from pathlib import Path

from helpers.repository import STAGES
from prunelab.core.lifecycle import make_numpy_portable

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


def main() -> None:
    assert "numpy" not in sys.modules
    make_numpy_portable()  # as every stage does that is started by itself
    commands = json.loads(Path(sys.argv[1]).read_text())
    for folder in sys.argv[2:]:
        run(Path(folder), commands[Path(folder).name])


if __name__ == "__main__":
    main()
