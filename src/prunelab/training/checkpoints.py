"""The state of unfinished training, kept outside what DVC deletes before it starts a stage again."""

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
from prunelab.runtime.device import code_digest
from prunelab.runtime.unpickle import load_pickled

FOLDER = Path(".prunelab/checkpoints")
DONE_MARKER = (
    "ended"  # the name of a file beside the checkpoints of a stage that DVC has yet to record
)


class Checkpoint:
    """One file that holds the state of one unfinished run."""

    def __init__(self, path: Path):
        self._path = path

    def load(self) -> dict[str, Any] | None:
        """The state, or None if there is none that can be read: then the run starts from its beginning."""
        try:
            return load_pickled(self._path)
        except FileNotFoundError:
            return None
        except Exception as error:  # a damaged checkpoint costs time, never the run
            print(f"starting over: {self._path} cannot be read ({type(error).__name__})")
            return None

    def save(self, state: dict[str, Any]) -> None:
        content = (
            BytesIO()
        )  # since on a full disk torch fails with an error of its own, which names no file
        torch.save(state, content)
        write(self._path, content.getvalue())


@dataclass(frozen=True)
class CheckpointFolder:
    """The checkpoints of one stage: one per seed and training."""

    path: Path

    def for_seed(self, seed: int) -> Callable[[str], Checkpoint]:
        """A function that opens a seed's checkpoint by the name of the training; it may be empty."""

        def open_checkpoint(name: str) -> Checkpoint:
            stem = f"{seed}-{name}" if name else str(seed)
            return Checkpoint(self.path / f"{stem}.pt")

        return open_checkpoint


@contextmanager
def checkpoints_for(
    out: Path, *, inputs: Iterable[Path], parameters: Iterable[Any], forget: bool = True
) -> Iterator[CheckpointFolder]:
    """Hand out checkpoints for the stage that writes `out`, and forget them all once it has succeeded.

    Under DVC that is once the stage is recorded in dvc.lock: until then a killed DVC would run all of it again.
    They are found again only by the same command with the same parameters, input files and code: what was computed
    otherwise is dropped, not resumed. Only those who are to `forget` remove anything.
    """
    told = [
        sys.argv[1:],
        [sha256(path) for path in inputs],
        [str(value) for value in parameters],
        code_digest(),
    ]
    key = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
    folder = FOLDER / "-".join(out.parts[-3:])
    if forget:
        for recorded in _recorded():
            shutil.rmtree(recorded, ignore_errors=True)
        (folder / DONE_MARKER).unlink(missing_ok=True)
        for other in folder.glob("*"):
            if other.name != key:
                shutil.rmtree(other, ignore_errors=True)
    yield CheckpointFolder(folder / key)
    if forget and "DVC_STAGE" in os.environ and folder.exists():
        (folder / DONE_MARKER).touch()
    elif forget:
        shutil.rmtree(folder, ignore_errors=True)


def _recorded() -> Iterator[Path]:
    """Folders of stages that had ended when DVC wrote its lock file last, so that it may have recorded them.

    Of stages that run side by side it may have recorded another one; a kill at that moment costs time.
    """
    lock = Path("dvc.lock")
    for ended in FOLDER.glob(f"*/{DONE_MARKER}"):
        with suppress(
            FileNotFoundError
        ):  # another stage has just begun anew, or was the first to clear away
            if not lock.exists() or ended.stat().st_mtime_ns <= lock.stat().st_mtime_ns:
                yield ended.parent
