"""A small training that processes share, as a program for each of them; imported, what one process makes of it.

    python tests/shared_training.py OUT        in every process, in the surroundings that `process.launch` sets

The network has no batch norm, but everything else that training meets: augmentation, label smoothing, a teacher, a
penalty, masks, a frozen layer, a parameter that the loss does not reach, batches that do not divide evenly.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from prunelab.data.augment import Augmentation
from prunelab.data.splits import Split
from prunelab.parallel import Ranks, join, leave
from prunelab.params import Finetune, Normalise, Runtime, read_params
from prunelab.pruning import masks
from prunelab.runtime import configure, generator
from prunelab.training import Fitted, Guide, Task, Teacher, fit

PARAMS = read_params(Path(__file__).parent.parent / "params.yaml")
RUNTIME = Runtime(**PARAMS["runtime"] | {"device": "cpu", "precision": "fp32", "threads": 1})
EXAMPLES = {"uneven": 37, "empty": 1}  # in batches of 8: five, of 8 and 7; and one that leaves all but one without


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


class PenaltyAndMasks(Guide):
    def __init__(self, model: Student):
        weight = model.body[2].weight
        self.model = model
        self.hold = masks.hold(model, {"body.2.weight": torch.rand(weight.shape, generator=generator("mask")) > 0.5})

    def penalty(self, progress: float) -> torch.Tensor:
        return 0.01 * (1 + progress) * self.model.body[2].weight.abs().sum()

    def after_step(self, progress: float) -> None:
        self.hold()


def trained(case: str, ranks: Ranks) -> tuple[Student, Fitted]:
    """Two epochs; in the second, what the optimiser remembers counts too."""
    execution = configure(RUNTIME)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (50, 3, 9, 9), dtype=np.uint8)
    split = Split(images, random.integers(0, 5, 50))
    count = EXAMPLES[case]
    task = Task.of(
        split.at(np.arange(count)),
        split.at(np.arange(40, 50)),
        normalise=Normalise(mean=[0.5] * 3, std=[0.25] * 3),
        augmentation=Augmentation(crop_padding=2, flip=True, crop_scale=0.5),
        execution=execution,
        ranks=ranks,
    )
    sample = torch.zeros(1, 3, 9, 9)
    model, teacher = Student(sample), network(1)
    teacher(sample)
    changes = {"epochs": 2, "batch_size": 8, "label_smoothing": 0.1, "learning_rate": 0.1, "weight_decay": 0.01}
    recipe = Finetune(**PARAMS["finetune"] | changes)
    guide, taught = PenaltyAndMasks(model), Teacher(execution.place(teacher).eval(), 0.5, 4.0)
    return model, fit(model, task, recipe, seed=3, guide=guide, teacher=taught)


def main(out: Path) -> None:
    ranks = join(configure(RUNTIME))
    for case in EXAMPLES:
        model, fitted = trained(case, ranks)
        torch.save({"model": model.state_dict(), "history": fitted.history}, out / f"{case}-{ranks.rank}.pt")
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
