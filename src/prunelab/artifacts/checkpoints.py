"""The state of unfinished training, kept outside what DVC deletes before it starts a stage again."""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from prunelab.artifacts.files import replacing, sha256
from prunelab.artifacts.pickled import load_pickled
from prunelab.runtime import code_digest

FOLDER = Path(".prunelab/checkpoints")


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
        with replacing(self._path) as partial:
            torch.save(state, partial)


@contextmanager
def unfinished(
    out: Path, *, inputs: Iterable[Path], parameters: Iterable[Any], forget: bool = True
) -> Iterator[Callable[..., Checkpoint]]:
    """Hand out checkpoints for the stage that writes `out`, and forget them all once it has succeeded.

    Each is asked for by its parts: a seed, and what is trained where that is more than one thing.
    They are found again only by the same command with the same parameters, input files and code: what was computed
    otherwise is dropped, not resumed. Only those who are to `forget` remove anything.
    """
    told = [sys.argv[1:], [sha256(path) for path in inputs], [str(value) for value in parameters], code_digest()]
    key = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
    folder = FOLDER / "-".join(out.parts[-3:])
    for other in folder.glob("*"):
        if forget and other.name != key:
            shutil.rmtree(other, ignore_errors=True)
    yield lambda *parts: Checkpoint(folder / key / f"{'-'.join(map(str, parts))}.pt")
    if forget:
        shutil.rmtree(folder, ignore_errors=True)
