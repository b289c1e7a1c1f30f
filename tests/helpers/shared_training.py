"""A small training that processes share, as a program for each of them; imported, what one process makes of it.

    python tests/shared_training.py OUT cpu|cuda        in every process, in the surroundings that `process.launch` sets

The network has no batch norm, but everything else that training meets: augmentation, label smoothing, a teacher, a
penalty, masks, a frozen layer, a parameter that the loss does not reach, batches that do not divide evenly.
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
EXAMPLES = {
    "uneven": 37,
    "empty": 1,
}  # in batches of 8: five, of 8 and 7; and one that leaves all but one without


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
        self.body(inputs)  # which gives the lazy layer its shape
        self.unreached = nn.Parameter(torch.ones(3, 3))
        self.body[0].weight.requires_grad_(False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.body(inputs)


class PenaltyAndMasks(Callback):
    def __init__(self, model: Student):
        weight = model.body[2].weight
        self.model = model
        self.hold = masking.hold(
            model, {"body.2.weight": torch.rand(weight.shape, generator=generator("mask")) > 0.5}
        )

    def penalty(self, progress: float) -> torch.Tensor:
        return 0.01 * (1 + progress) * self.model.body[2].weight.abs().sum()

    def after_step(self, progress: float) -> None:
        self.hold()


def computed_on(device: str) -> Execution:
    return configure(
        Runtime(**PARAMS["runtime"] | {"device": device, "precision": "fp32", "threads": 1})
    )


def trained(
    case: str, distributed: Distributed, execution: Execution
) -> tuple[Student, TrainResult]:
    """Two epochs; in the second, what the optimiser remembers counts too."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (50, 3, 9, 9), dtype=np.uint8)
    split = Split(images, random.integers(0, 5, 50))
    count = EXAMPLES[case]
    normalise = Normalise(mean=[0.5] * 3, std=[0.25] * 3)
    sample = torch.zeros(1, 3, 9, 9)
    model, teacher = Student(sample), network(1)
    teacher(sample)
    changes = {
        "epochs": 2,
        "batch_size": 8,
        "label_smoothing": 0.1,
        "learning_rate": 0.1,
        "weight_decay": 0.01,
    }
    recipe = Finetune(**PARAMS["finetune"] | changes)
    trainer = Trainer(
        BatchLoader(split.at(np.arange(count)), normalise, execution),
        BatchLoader(split.at(np.arange(40, 50)), normalise, execution),
        Augmentation(crop_padding=2, flip=True, crop_scale=0.5),
        execution,
        distributed,
        teacher=Teacher(execution.place(teacher).eval(), 0.5, 4.0),
        seed=3,
    )
    callback = PenaltyAndMasks(execution.place(model))
    return model, trainer.fit(model, recipe, callback=callback)


def main(out: Path, device: str) -> None:
    execution = computed_on(device)
    distributed = join(execution)
    for case in EXAMPLES:
        model, fitted = trained(case, distributed, execution)
        torch.save(
            {"model": model.cpu().state_dict(), "history": fitted.history},
            out / f"{case}-{distributed.rank}.pt",
        )
    leave()


def by_two(folder: Path, device: str) -> None:
    """Have two processes do all cases, and leave what they made of them in the folder."""
    root = Path(__file__).parents[2]
    meeting = {RENDEZVOUS: (folder / "store").as_uri(), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    surroundings = os.environ | meeting | {"PYTHONPATH": str(root / "src")}
    processes = [
        subprocess.Popen([sys.executable, __file__, str(folder), device], env=surroundings | place)
        for place in ({"RANK": "0", "LOCAL_RANK": "0"}, {"RANK": "1", "LOCAL_RANK": "1"})
    ]
    try:
        assert [process.wait(timeout=300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()


def assert_steps_of_one(folder: Path, case: str, device: str) -> None:
    """Weights after steps of SGD are sums of gradients; without batch norm they must be those of one process."""
    model, fitted = trained(case, SINGLE_PROCESS, computed_on(device))
    one, other = (torch.load(folder / f"{case}-{rank}.pt") for rank in range(2))
    assert one["history"] == other["history"]
    assert len(one["history"]) == 2
    for row, expected in zip(one["history"], fitted.history, strict=True):
        assert all(abs(row[key] - value) <= 1e-5 for key, value in expected.items()), (
            row,
            expected,
        )
    begun = Student(torch.zeros(1, 3, 9, 9)).state_dict()
    for name, expected in model.cpu().state_dict().items():
        assert torch.equal(one["model"][name], other["model"][name])
        torch.testing.assert_close(one["model"][name], expected, rtol=0, atol=1e-5, msg=name)
        # What is frozen or not reached neither moves nor decays, and all else does move.
        assert torch.equal(begun[name], expected) == (name in ("body.0.weight", "unreached"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
