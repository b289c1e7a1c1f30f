"""A small training that one process or several run; as a program it is one of the processes.

    python tests/helpers/shared_training.py OUT cpu|cuda

Every process needs the environment variables that `lifecycle.launch` sets. The network has no batch
norm, but all else that training meets: augmentation, label smoothing, a teacher, a penalty, masks,
a frozen layer, a parameter that the loss does not reach, and batches that do not divide evenly.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from prunelab.config.params import Finetune, Normalise, Runtime, read_params
from prunelab.core.lifecycle import RENDEZVOUS
from prunelab.data.augment import Augmentation
from prunelab.data.loader import BatchLoader
from prunelab.data.splits import Split
from prunelab.runtime.device import Execution, configure, generator
from prunelab.runtime.distributed import SINGLE_PROCESS, Distributed, join, leave
from prunelab.training import masking
from prunelab.training.callbacks import Callback
from prunelab.training.distillation import Teacher
from prunelab.training.trainer import Trainer, TrainResult

PARAMS = read_params(Path(__file__).parents[2] / "params.yaml")
BATCH_SIZE = 8
TOLERANCE = 1e-5
# How many examples there are: five batches of 8 and 7; or one that leaves a process without any.
EXAMPLES = {"uneven": 37, "empty": 1, "head first": 37}
HEAD = "body.5"
FROZEN, UNREACHED = "body.0.weight", "unreached"


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(4, 6, 3, stride=2),
        nn.GELU(),
        nn.Flatten(),
        nn.LazyLinear(5),
    )


class Student(nn.Module):
    def __init__(self, inputs: torch.Tensor):
        super().__init__()
        self.body = network(0)
        self.body(inputs)  # gives the lazy layer its shape
        self.unreached = nn.Parameter(torch.ones(3, 3))
        self.body[0].weight.requires_grad_(False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.body(inputs)


class PenaltyAndMasks(Callback):
    def __init__(self, model: Student):
        self.weight = model.body[2].weight
        mask = torch.rand(self.weight.shape, generator=generator("mask")) > 0.5
        self.zero_dropped = masking.hold(model, {"body.2.weight": mask})

    def penalty(self, progress: float | torch.Tensor) -> torch.Tensor:
        return 0.01 * (1 + progress) * self.weight.abs().sum()

    def after_step(self) -> None:
        self.zero_dropped()


def execution_on(device: str) -> Execution:
    changes = {"device": device, "precision": "fp32", "threads": 1}
    return configure(Runtime(**PARAMS["runtime"] | changes))


def train(case: str, distributed: Distributed, execution: Execution) -> tuple[Student, TrainResult]:
    """Train for two epochs; in the second, the optimizer's momentum matters too."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (50, 3, 9, 9), dtype=np.uint8)
    split = Split(images, random.integers(0, 5, 50))
    normalise = Normalise(mean=[0.5] * 3, std=[0.25] * 3)

    sample = torch.zeros(1, 3, 9, 9)
    student, teacher = Student(sample), network(1)
    teacher(sample)

    changes = {
        "epochs": 2,
        "batch_size": BATCH_SIZE,
        "label_smoothing": 0.1,
        "learning_rate": 0.1,
        "weight_decay": 0.01,
    }
    if case == "head first":
        changes |= {"freeze_epochs": 1, "backbone_rate": 0.5}
    recipe = Finetune(**PARAMS["finetune"] | changes)
    trainer = Trainer(
        BatchLoader(split.at(np.arange(EXAMPLES[case])), normalise, execution),
        BatchLoader(split.at(np.arange(40, 50)), normalise, execution),
        Augmentation(crop_padding=2, flip=True, crop_scale=0.5),
        execution,
        distributed,
        teacher=Teacher(execution.place(teacher).eval(), weight=0.5, temperature=4.0),
        seed=3,
        head=HEAD,
    )
    callback = PenaltyAndMasks(execution.place(student))
    return student, trainer.fit(student, recipe, callback=callback)


def main(out: Path, device: str) -> None:
    execution = execution_on(device)
    distributed = join(execution)

    for case in EXAMPLES:
        student, result = train(case, distributed, execution)
        content = {"model": student.cpu().state_dict(), "history": result.history}
        torch.save(content, out / f"{case}-{distributed.rank}.pt")

    leave()


def train_with_two_processes(folder: Path, device: str) -> None:
    """Have two processes train all cases; each writes its results to the folder."""
    root = Path(__file__).parents[2]
    environment = os.environ | {
        "PYTHONPATH": str(root / "src"),
        RENDEZVOUS: (folder / "store").as_uri(),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
    }

    processes = []
    for rank in ("0", "1"):
        processes.append(
            subprocess.Popen(
                [sys.executable, __file__, str(folder), device],
                env=environment | {"RANK": rank, "LOCAL_RANK": rank},
            )
        )
    try:
        assert [process.wait(timeout=300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()


def assert_same_as_one_process(folder: Path, case: str, device: str) -> None:
    """Weights after steps of SGD are sums of gradients: without batch norm they must be equal."""
    student, result = train(case, SINGLE_PROCESS, execution_on(device))
    first, second = (torch.load(folder / f"{case}-{rank}.pt") for rank in range(2))

    assert first["history"] == second["history"]
    assert len(first["history"]) == 2
    for row, expected_row in zip(first["history"], result.history, strict=True):
        for key, expected in expected_row.items():
            assert abs(row[key] - expected) <= TOLERANCE, (key, row, expected_row)

    initial = Student(torch.zeros(1, 3, 9, 9)).state_dict()
    for name, expected in student.cpu().state_dict().items():
        weight = first["model"][name]
        assert torch.equal(weight, second["model"][name])
        torch.testing.assert_close(weight, expected, rtol=0, atol=TOLERANCE, msg=name)
        # A frozen or unreached weight neither moves nor decays, and all others move.
        assert torch.equal(initial[name], expected) == (name in (FROZEN, UNREACHED))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
