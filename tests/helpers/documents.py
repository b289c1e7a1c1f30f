"""Python code in documents: blocks of Markdown and cells of notebooks, run as one script."""

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(path: Path) -> list[tuple[str, str]]:
    """The blocks of a Markdown file in order, each with its language: python or text."""
    return BLOCK.findall(path.read_text(encoding="utf-8"))


def cells(path: Path) -> list[str]:
    """The code of a notebook's cells in order."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run(code: str, place: str, names: dict[str, Any]) -> str:
    """What code prints, run with these names, which it may change."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, place, "exec"), names)
    return printed.getvalue()
