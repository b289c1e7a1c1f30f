"""What the stages that train have in common: a trainer for the prepared splits, the dense network as a teacher."""

import sys
from functools import wraps
from pathlib import Path

from prunelab.artifacts.networks import load_network, seed_file
from prunelab.artifacts.prepared import load_split
from prunelab.config.params import Data, Finetune, Normalise, load_params
from prunelab.core.lifecycle import launch, process_count
from prunelab.data.augment import Augmentation
from prunelab.data.loader import BatchLoader
from prunelab.runtime.device import Execution, configure
from prunelab.runtime.distributed import SINGLE_PROCESS, Distributed, leave, require_gpus
from prunelab.stages.entry import Main
from prunelab.training.distillation import Teacher
from prunelab.training.trainer import Trainer


def together(main: Main) -> Main:
    """A stage's function run by as many processes as `runtime.processes` or torchrun says; it calls `parallel.join`."""

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


def load_trainer(
    prepared: Path,
    data: Data,
    normalise: Normalise | None,
    execution: Execution,
    distributed: Distributed = SINGLE_PROCESS,
) -> Trainer:
    """The training and validation splits of the folder `prepared`; `normalise` is None for texts."""
    train, validation = (
        load_split(prepared, name, data.memory_mb) for name in ("train", "validation")
    )
    return Trainer(
        BatchLoader(train, normalise, execution, workers=data.workers),
        BatchLoader(validation, normalise, execution, workers=data.workers),
        Augmentation(data.crop_padding, data.flip, data.crop_scale),
        execution,
        distributed,
    )


def load_teacher(
    dense: Path, seed: int, finetune: Finetune, execution: Execution
) -> Teacher | None:
    """A seed's network of the folder `dense` as a teacher, if the recipe asks for one."""
    if not finetune.distill:
        return None
    model = execution.place(load_network(seed_file(dense, seed)).model).requires_grad_(False)
    return Teacher(model, finetune.distill, finetune.temperature)
