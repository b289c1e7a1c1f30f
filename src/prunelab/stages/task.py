"""What the stages that train have in common: the prepared splits as a task."""

from pathlib import Path

from prunelab.artifacts.prepared import load_split
from prunelab.data.augment import Augmentation
from prunelab.params import Data, Normalise
from prunelab.runtime import Execution
from prunelab.training import Task


def load_task(prepared: Path, data: Data, normalise: Normalise | None, execution: Execution) -> Task:
    """The training and validation splits of the folder `prepared`; `normalise` is None for texts."""
    train, validation = (load_split(prepared, name, data.memory_mb) for name in ("train", "validation"))
    return Task.of(
        train,
        validation,
        normalise=normalise,
        augmentation=Augmentation(data.crop_padding, data.flip, data.crop_scale),
        execution=execution,
        workers=data.workers,
    )
