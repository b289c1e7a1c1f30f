"""Write the parameters that all cells of the grid share, in a file for each of its stages.

DVC writes the value of every parameter into dvc.lock for each stage that lists it. For a grid these
are thousands of lines, which DVC reads and writes again after every stage. Cells depend on these
files instead.
"""

import json
from pathlib import Path
from typing import Annotated, Any

from typer import Argument

from prunelab.config.params import read_params
from prunelab.core.errors import InputError
from prunelab.core.files import write
from prunelab.stages.entry import run


def main(
    out: Path,
    stages: Annotated[list[str], Argument(help="Such as evaluate=seeds,evaluate.batch_size.")],
) -> None:
    """Write OUT/STAGE.json for every STAGE=KEY,KEY: the values in params.yaml, by dotted key."""
    content = read_params()
    for entry in stages:
        stage, _, keys = entry.partition("=")
        values = {key: _value_at(content, key) for key in keys.split(",")}
        # Not by `write_json`, which rounds: another value must be another text.
        text = json.dumps(values, indent=1, sort_keys=True, default=repr)
        write(out / f"{stage}.json", f"{text}\n".encode())


def _value_at(content: Any, dotted: str) -> Any:
    value = content
    for key in dotted.split("."):
        if not isinstance(value, dict) or key not in value:
            raise InputError(f"params.yaml: {dotted} is missing")
        value = value[key]
    return value


if __name__ == "__main__":
    run(main)
