"""Code in documents: Python blocks and notebook cells, run as one script, and shell commands."""

import contextlib
import io
import json
import re
from dataclasses import dataclass
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


NOT_RUN = "not-run: "


@dataclass(frozen=True)
class ShellBlock:
    """A block of shell commands of a Markdown file, and the reason why tests do not run it."""

    path: Path
    line: int
    info: str
    text: str

    @property
    def not_run(self) -> str:
        """The reason; empty for a block that tests run."""
        return self.info.partition(NOT_RUN)[2]

    @property
    def place(self) -> str:
        """The file and the line of the block's beginning."""
        return f"{self.path.name}:{self.line}"


def shell_blocks(path: Path) -> list[ShellBlock]:
    """The blocks of a Markdown file whose language is sh, in order."""
    found = []
    start, info, body = 0, "", []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.startswith("```"):
            body.append(line)
        elif not start:
            start, info, body = number, line.removeprefix("```"), []
        else:
            if info.split(" ")[0] in ("sh", "bash", "shell"):
                found.append(ShellBlock(path, start, info, "\n".join(body)))
            start = 0
    return found
