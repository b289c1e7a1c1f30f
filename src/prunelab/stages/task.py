"""What the stages that train have in common: the prepared splits as a task, the dense network as a teacher."""

from pathlib import Path

from prunelab.artifacts.networks import load_network, seed_file
from prunelab.artifacts.prepared import load_split
from prunelab.data.augment import Augmentation
from prunelab.params import Data, Finetune, Normalise
from prunelab.runtime import Execution
from prunelab.training import Task, Teacher


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


def load_teacher(dense: Path, seed: int, finetune: Finetune, execution: Execution) -> Teacher | None:
    """A seed's network of the folder `dense` as a teacher, if the recipe asks for one."""
    if not finetune.distill:
        return None
    model = execution.place(load_network(seed_file(dense, seed)).model).requires_grad_(False)
    return Teacher(model, finetune.distill, finetune.temperature)
