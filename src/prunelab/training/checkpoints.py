"""The state of unfinished trainings.

It lies outside the outputs of stages, which DVC deletes before it runs a stage again.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from prunelab.core.files import sha256, write
from prunelab.runtime import time_limit
from prunelab.runtime.device import code_digest
from prunelab.runtime.unpickle import load_pickled

FOLDER = Path(".prunelab/checkpoints")
DONE_MARKER = "ended"  # a file beside the checkpoints of a stage that DVC has not recorded yet


# What stands for the code of all stages, in a process that runs several of them.
_code = ""


@contextmanager
def code_known_as(code: str) -> Iterator[None]:
    """Let `code` stand for the source files, for a process that runs several stages.

    Which files such a process has loaded depends on the stages that it ran before.
    """
    global _code
    before, _code = _code, code
    try:
        yield
    finally:
        _code = before


class Checkpoint:
    """One file with the state of one unfinished training."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> dict[str, Any] | None:
        """The saved state. None means that there is none to resume: training starts over."""
        try:
            state: dict[str, Any] = load_pickled(self._path)
        except FileNotFoundError:
            return None
        except Exception as error:  # a damaged checkpoint costs time, never the run
            print(f"starting over: {self._path} cannot be read ({type(error).__name__})")
            return None

        return state

    def save(self, state: dict[str, Any]) -> None:
        # On a full disk torch.save fails with an error that names no file, so torch only fills a
        # buffer here.
        content = BytesIO()
        torch.save(state, content)
        write(self._path, content.getvalue())
        time_limit.epoch_ended()


@dataclass(frozen=True)
class CheckpointFolder:
    """The checkpoints of one stage: one for each seed and training."""

    path: Path

    def for_seed(self, seed: int) -> Callable[[str], Checkpoint]:
        """A function that opens a checkpoint of one seed by the name of the training.

        The name may be empty if a seed has only one training.
        """

        def open_checkpoint(name: str) -> Checkpoint:
            stem = f"{seed}-{name}" if name else str(seed)
            return Checkpoint(self.path / f"{stem}.pt")

        return open_checkpoint


@contextmanager
def checkpoints_for(
    out: Path, *, inputs: Iterable[Path], parameters: Iterable[Any], forget: bool = True
) -> Iterator[CheckpointFolder]:
    """Hand out the checkpoints of the stage that writes `out`, and delete them once it succeeded.

    Only the same command with the same parameters, input files and code finds them again;
    checkpoints of any other work are deleted, not resumed. Under DVC a stage has succeeded when
    dvc.lock records it: until then a killed DVC would run all of it again. Without `forget`
    nothing is deleted: of several processes only the first one forgets.
    """
    folder = FOLDER / "-".join(out.parts[-3:])
    key = _work_key(inputs, parameters)
    if forget:
        _delete_stale(folder, key)

    yield CheckpointFolder(folder / key)

    if not forget:
        return
    if "DVC_STAGE" in os.environ and folder.exists():
        (folder / DONE_MARKER).touch()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _work_key(inputs: Iterable[Path], parameters: Iterable[Any]) -> str:
    """A hash of all that decides what a stage computes."""
    work = [
        sys.argv[1:],
        [sha256(path) for path in inputs],
        [str(value) for value in parameters],
        _code or code_digest(),
    ]
    return hashlib.sha256(json.dumps(work).encode()).hexdigest()[:16]


def _delete_stale(folder: Path, key: str) -> None:
    """Delete checkpoints of recorded stages, and those of other work in `folder`."""
    for recorded in _recorded_stages():
        shutil.rmtree(recorded, ignore_errors=True)

    (folder / DONE_MARKER).unlink(missing_ok=True)
    for checkpoints in folder.glob("*"):
        if checkpoints.name != key:
            shutil.rmtree(checkpoints, ignore_errors=True)


def _recorded_stages() -> Iterator[Path]:
    """Folders of the stages that had ended when DVC last wrote its lock file.

    DVC has probably recorded them. If stages run side by side, it may have recorded another one:
    a kill at that moment costs time.
    """
    lock = Path("dvc.lock")
    for marker in FOLDER.glob(f"*/{DONE_MARKER}"):
        # Another stage may have deleted the marker: it started again, or cleared this folder first.
        with suppress(FileNotFoundError):
            if not lock.exists() or marker.stat().st_mtime_ns <= lock.stat().st_mtime_ns:
                yield marker.parent
