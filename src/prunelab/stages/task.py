"""What the stages that train have in common: processes, the trainer, the teacher, the history."""

import sys
from collections.abc import Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from prunelab.artifacts.networks import load_network, seed_file
from prunelab.artifacts.prepared import load_split
from prunelab.config.params import Data, Finetune, Normalise, load_params
from prunelab.core.lifecycle import launch, process_count
from prunelab.core.registry import pick
from prunelab.data.augment import Augmentation
from prunelab.data.augmentations import AUGMENTATIONS
from prunelab.data.loader import BatchLoader
from prunelab.runtime.device import Execution, configure
from prunelab.runtime.distributed import SINGLE_PROCESS, Distributed, leave, require_gpus
from prunelab.stages.entry import Main
from prunelab.training.distillation import Teacher
from prunelab.training.trainer import Trainer, TrainResult


def distributed(main: Main) -> Main:
    """Wrap a stage's function for as many processes as `runtime.processes` or torchrun asks for.

    The function calls `runtime.distributed.join`.
    """

    @wraps(main)
    def start(*args: object, **kwargs: object) -> None:
        runtime = load_params().runtime
        if runtime.processes > 1 and not process_count():
            require_gpus(runtime.processes, configure(runtime))
            launch([sys.executable, *sys.orig_argv[1:]], runtime.processes)
        else:
            main(*args, **kwargs)
            leave()

    return start


def augmentation_of(data: Data) -> Augmentation:
    """The random changes to training images.

    Raises:
        InputError: if one of them is in no table.
    """
    for name in data.augment:
        pick(AUGMENTATIONS, name, "augmentation")
    return Augmentation(data.crop_padding, data.flip, data.crop_scale, tuple(data.augment))


def load_trainer(
    prepared: Path,
    data: Data,
    normalise: Normalise | None,
    execution: Execution,
    processes: Distributed = SINGLE_PROCESS,
) -> Trainer:
    """A trainer for the splits of the folder `prepared`; `normalise` is None for texts.

    A stage gives every seed its own copy, with the seed, its label and its checkpoints.
    """
    train = load_split(prepared, "train", data.memory_mb)
    validation = load_split(prepared, "validation", data.memory_mb)

    return Trainer(
        train_loader=BatchLoader(train, normalise, execution, workers=data.workers),
        validation_loader=BatchLoader(validation, normalise, execution, workers=data.workers),
        augmentation=augmentation_of(data),
        execution=execution,
        distributed=processes,
    )


def load_teacher(
    dense: Path, seed: int, finetune: Finetune, execution: Execution
) -> Teacher | None:
    """A seed's network of the folder `dense` as a teacher, or None if `finetune.distill` is 0."""
    if not finetune.distill:
        return None

    model = execution.place(load_network(seed_file(dense, seed)).model)
    model.requires_grad_(False)
    return Teacher(model, finetune.distill, finetune.temperature)


def history_rows(
    seeds: Sequence[int], results: Iterable[TrainResult], *, report: bool
) -> list[dict[str, Any]]:
    """Wait for the results of all seeds, and return a row for every epoch of each.

    With `report`, a line about a seed is printed as soon as its result is there.
    """
    rows = []
    for seed, result in zip(seeds, results, strict=True):
        if report:
            print(f"seed {seed}: {result.describe()}")
        for row in result.history:
            rows.append({"seed": seed, **row})
    return rows
