"""Entries of dvc.lock as text: writing one stage without parsing all the others.

DVC rewrites the whole file after each stage. For a large file that takes seconds, makes all other
workers wait, and leaves half a file if DVC is killed meanwhile. An entry is a block of lines, so
this module replaces it as text, in one step.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prunelab.core.files import write

HEADER = "schema: '2.0'\nstages:\n"
LAST_LINE = re.compile(r"\n      (?:md5|hash|size|nfiles|isexec): \S+\n\Z")
ENTRY = re.compile(r"  (?! )(?P<name>\S.*):\n(?:    .*\n)+")


def split_entries(text: str) -> dict[str, str] | None:
    """Return the text of every stage's entry; None if the file does not have DVC's layout."""
    if not text.startswith(HEADER):
        return None
    body = text.removeprefix(HEADER)
    entries = {match["name"].strip("'\""): match[0] for match in ENTRY.finditer(body)}
    if "".join(entries.values()) != body:
        return None
    return entries


def join_entries(entries: Mapping[str, str], order: Sequence[str]) -> str:
    """Return the text of a dvc.lock: first the entries named in `order`, then the others."""
    ordered = {name: entries[name] for name in order if name in entries}
    return HEADER + "".join((ordered | dict(entries)).values())


def ends_whole(text: str) -> bool:
    """Whether the last line is a whole one about an output, as at the end of most entries.

    DVC reads an entry that is cut off behind such a line. To know so takes no import of DVC.
    """
    return text.startswith(HEADER) and LAST_LINE.search(text) is not None


def complete_part(text: str) -> str | None:
    """Return the complete entries of a file that was cut off; None if it is damaged otherwise."""
    if not text.startswith(HEADER):
        return HEADER if HEADER.startswith(text) else None

    lines = text.removeprefix(HEADER).splitlines(keepends=True)
    if any(not line.startswith("  ") for line in lines[:-1]):
        return None

    entries = list(ENTRY.finditer(text, len(HEADER)))
    if not entries:
        return HEADER
    # The last entry may lack lines, even if it looks complete.
    return text[: entries[-1].start()]


def write_entry(stage: Any, order: Sequence[str]) -> None:
    """Write a stage's entry as DVC's `stage.dump` does. The caller must hold DVC's lock.

    A file that does not have DVC's layout, or a stage with a file of its own, is left to DVC.
    """
    from dvc.stage import PipelineStage

    # `to_lockfile` is internal to DVC: it returns what DVC stores about one stage. The public way,
    # `stage.dump`, writes the whole file. If DVC changes it,
    # test_a_run_leaves_the_same_bytes_as_a_serial_run fails.
    from dvc.stage.serialize import to_lockfile
    from dvc.utils.serialize import dumps_yaml

    if not isinstance(stage, PipelineStage):
        stage.dump(update_pipeline=False)
        return

    path = Path(stage.path).with_suffix(".lock")
    entry = split_entries(dumps_yaml({"schema": "2.0", "stages": to_lockfile(stage)}))
    entries: dict[str, str] | None = {}
    if path.exists():
        entries = split_entries(path.read_text(encoding="utf-8"))
    if entry is None or entries is None:
        stage.dump(update_pipeline=False)
        return

    write(path, join_entries(entries | entry, order).encode())
    stage.repo.scm_context.track_file(str(path))
