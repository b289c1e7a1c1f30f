"""One stage's entry in dvc.lock, put there without reading and writing all others through a YAML library.

DVC rewrites the whole file after each stage, which takes seconds where it is large, holds up every other worker, and
leaves half a file behind when it is killed. An entry is a block of lines, so it is replaced as text, in one step.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prunelab.core.files import write

HEAD = "schema: '2.0'\nstages:\n"
BLOCK = re.compile(r"  (?! )(?P<name>\S.*):\n(?:    .*\n)+")


def blocks(text: str) -> dict[str, str] | None:
    """The text of every stage's entry; None if this is not laid out as DVC does it."""
    body = text.removeprefix(HEAD)
    found = {match["name"].strip("'\""): match[0] for match in BLOCK.finditer(body)}
    return found if text.startswith(HEAD) and "".join(found.values()) == body else None


def uncut(text: str) -> str | None:
    """What is whole of a file whose end is missing; None if more than that is wrong with it."""
    if not text.startswith(HEAD):
        return HEAD if HEAD.startswith(text) else None
    lines = text.removeprefix(HEAD).splitlines(keepends=True)
    if any(not line.startswith("  ") for line in lines[:-1]):
        return None
    found = list(BLOCK.finditer(text, len(HEAD)))
    return text[: found[-1].start()] if found else HEAD  # the last one may lack something


def ordered(found: dict[str, str], order: Sequence[str]) -> str:
    """The file of these blocks: those of `order` in that order, then the others."""
    known = {name: found[name] for name in order if name in found}
    return HEAD + "".join((known | found).values())


def store(stage: Any, order: Sequence[str]) -> None:
    """Write a stage's entry, as `stage.dump` of DVC does; needs DVC's lock."""
    from dvc.stage import PipelineStage
    from dvc.stage.serialize import to_lockfile
    from dvc.utils.serialize import dumps_yaml

    if not isinstance(stage, PipelineStage):  # a file of its own, not an entry
        return stage.dump(update_pipeline=False)
    path = Path(stage.path).with_suffix(".lock")
    entry = blocks(dumps_yaml({"schema": "2.0", "stages": to_lockfile(stage)}))
    others = blocks(path.read_text(encoding="utf-8")) if path.exists() else {}
    if entry is None or others is None:
        return stage.dump(update_pipeline=False)
    write(path, ordered(others | entry, order).encode())
    stage.repo.scm_context.track_file(str(path))
    return None
