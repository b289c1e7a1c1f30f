"""Trainings that end before they are complete, as if the process had died."""

from pathlib import Path

from prunelab.training.checkpoints import Checkpoint


class StoppedError(Exception):
    """The process would have died here."""


class StopAfterEpoch(Checkpoint):
    """The process dies once it has saved an epoch: the next one, or the one of this number."""

    def __init__(self, path: Path, epochs: int | None = None) -> None:
        super().__init__(path)
        self._epochs = epochs

    def save(self, state):
        super().save(state)
        if self._epochs in (None, len(state["result"]["history"])):
            raise StoppedError
