"""Images per second of prunelab's training loop against the usual recipe, on one machine, in one
run.

    python benchmarks/training.py [--model resnet20] [--images 2560] [--rounds 5] [--device cpu]

The usual recipe: a torchvision data set of PIL images, per-image transforms (crop, flip, tensor,
normalise), a DataLoader with workers, float32, the default memory format. Ours: images as uint8 on
the device, batched augmentation there, channels_last, bf16 autocast where the hardware has it. Same
network, batch size, optimiser, number of images. The arms alternate, and the figure is the median
ratio of neighbouring rounds. CIFAR-10 from data/raw, else random images of its size: the work is
the same.

On a CPU it then prints the price of portable bits: how many times as long our loop takes as with
native ones, in float32 and, where the hardware has it, compared with bf16, which is for native bits
alone; for this network, and for the study in params.yaml on one thread. With --study-only it prints
the price for all trainings of that study instead, in processor seconds, which other programs that
run meanwhile hardly change.
"""

import contextlib
import io
import json
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, chdir
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated

from prunelab.core.lifecycle import set_load_time_variables

set_load_time_variables()  # portable bits need it before NumPy is loaded

import numpy as np
import torch
import torch.nn.functional as F
import typer
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from prunelab.config.params import (
    Finetune,
    Normalise,
    Recipe,
    Runtime,
    load_params,
    read_params,
)
from prunelab.data.augment import Augmentation
from prunelab.data.dataset import DataConfig
from prunelab.data.loader import BatchLoader
from prunelab.data.splits import Split
from prunelab.datasets.datasets import DATASETS
from prunelab.models.networks import build
from prunelab.runtime.device import Execution, configure, has_fast_bf16
from prunelab.runtime.distributed import SINGLE_PROCESS, Distributed
from prunelab.stages import finetune, prepare, prune, train_base
from prunelab.training.trainer import Trainer

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.247, 0.2435, 0.2616]
RAW = Path("data/raw")


def images(count: int) -> Split:
    dataset = DATASETS["cifar10"](DataConfig(RAW))
    if not dataset.missing():
        return dataset.read().train.at(np.arange(count))
    random = np.random.default_rng(0)
    return Split(
        random.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8), random.integers(0, 10, count)
    )


class PilImages(Dataset):
    """What torchvision's CIFAR10 does: an array, a PIL image of one entry, transforms on it."""

    def __init__(self, split: Split):
        self.images, self.labels = split.inputs.transpose(0, 2, 3, 1), split.labels
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def usual(
    model_name: str, split: Split, recipe: Recipe, device: torch.device, workers: int = 2
) -> float:
    """Images per second of one epoch of the usual recipe."""
    torch.set_deterministic_debug_mode("default")  # as it usually is; `configure` sets ours again
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = True
    model = build(model_name, 10, (3, 32, 32)).to(device).train()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    pinned = device.type == "cuda"
    loader = DataLoader(
        PilImages(split),
        recipe.batch_size,
        shuffle=True,
        num_workers=workers,
        pin_memory=pinned,
        persistent_workers=True,
    )
    for _ in range(2):  # the first epoch starts the workers and warms up
        start = time.perf_counter()
        for batch, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(batch.to(device)), labels.to(device)).backward()
            optimizer.step()
        synchronise(device)
        seconds = time.perf_counter() - start
    return len(split) / seconds


def our_trainer(
    split: Split, execution: Execution, distributed: Distributed = SINGLE_PROCESS
) -> Trainer:
    channels = split.inputs.shape[1]
    normalise = Normalise(mean=MEAN[:channels], std=STD[:channels])
    return Trainer(
        BatchLoader(split, normalise, execution),
        BatchLoader(split.at(np.arange(16)), normalise, execution),
        Augmentation(crop_padding=4, flip=True),
        execution,
        distributed,
    )


def ours(
    model_name: str, trainer: Trainer, recipe: Recipe, shape: tuple[int, int, int] = (3, 32, 32)
) -> float:
    """Images per second of one epoch of prunelab's loop, validation (of 16 images) included."""
    model = build(model_name, 10, shape)
    for _ in range(2):
        start = time.perf_counter()
        trainer.fit(model, recipe)
        synchronise(trainer.execution.device)
        seconds = time.perf_counter() - start
    return len(trainer.train_loader) / seconds


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def report(name: str, execution: Execution, pairs: list[tuple[float, float]]) -> None:
    ratios = sorted(fast / slow for slow, fast in pairs)
    precision = "bf16 autocast" if execution.autocast_dtype else "fp32"
    print(
        f"{name}, {execution.device.type}, {precision}: {median(fast for _, fast in pairs):,.0f} "
        "images/s, "
        f"usual recipe {median(slow for slow, _ in pairs):,.0f} images/s; "
        f"ratio {median(ratios):.2f}x (rounds from {ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


@dataclass(frozen=True)
class Work:
    """A network and the images on which an epoch of it is trained: those of CIFAR-10, or digits."""

    model: str
    dataset: str
    images: int
    batch_size: int
    threads: int

    def seconds(self, bits: str, precision: str) -> float:
        """The time of an epoch, in a process that computes in nothing but these bits."""
        execution = configure(runtime("cpu", precision, self.threads, bits))
        if self.dataset == "digits":
            split = DATASETS["digits"](DataConfig(RAW)).read().train.at(np.arange(self.images))
        else:
            split = images(self.images)
        trainer = our_trainer(split, execution)
        recipe = Finetune(
            **read_params()["finetune"] | {"epochs": 1, "batch_size": self.batch_size}
        )
        return len(split) / ours(self.model, trainer, recipe, split.shape)


@dataclass(frozen=True)
class StudyWork:
    """The trainings of the study in params.yaml, at its first seed and for a part of its epochs."""

    epochs: float  # the part

    def seconds(self, bits: str, precision: str) -> float:
        """The processor time of base training and of fine-tuning all networks of the grid."""
        content = read_params()
        content["seeds"] = content["seeds"][:1]
        content["runtime"] |= {"bits": bits, "precision": precision, "device": "cpu"}
        for recipe in ("train", "finetune"):
            content[recipe]["epochs"] = round(content[recipe]["epochs"] * self.epochs)

        with (
            TemporaryDirectory() as folder,
            chdir(folder),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            Path("params.yaml").write_text(json.dumps(content))
            return _training_seconds()


def _training_seconds() -> float:
    """Make the study of this folder as far as its fine-tuned networks; the time to train them."""
    data, base, grid = Path("prepared"), Path("base"), Path("grid")
    prepare.main(RAW, data)

    start = time.process_time()
    train_base.main(data, base, Path("history.json"))
    seconds = time.process_time() - start

    for method, ratio, key in load_params().grid.cells():
        prune.main(base, data, grid / key / "pruned", method, ratio)
        start = time.process_time()
        finetune.main(
            grid / key / "pruned",
            base / "final",
            data,
            grid / key / "finetuned",
            grid / f"{key}.json",
        )
        seconds += time.process_time() - start
    return seconds


def report_price(name: str, work: Callable[[str, str], float], rounds: int) -> None:
    """Print how many times as long portable bits take; each kind of bits has its own process."""
    arms = [("portable", "fp32"), ("native", "fp32")]
    if has_fast_bf16(torch.device("cpu")):
        arms.append(("native", "bf16"))

    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        pools = {
            arm: stack.enter_context(ProcessPoolExecutor(1, mp_context=context)) for arm in arms
        }
        seconds = {arm: [] for arm in arms}
        for number in range(rounds + 1):
            for arm, pool in pools.items():
                measured = pool.submit(work, *arm).result()
                if number:  # the first round warms up
                    seconds[arm].append(measured)

    portable = seconds.pop(("portable", "fp32"))
    for (_, precision), native in seconds.items():
        ratios = sorted(slow / fast for slow, fast in zip(portable, native, strict=True))
        print(
            f"{name}: portable bits take {median(ratios):.2f} times as long as native {precision} "
            f"(rounds from {ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


def runtime(device: str, precision: str, threads: int, bits: str) -> Runtime:
    return Runtime(
        bits=bits,
        device=device,
        precision=precision,
        processes=1,
        threads=threads,
        deterministic=True,
        channels_last=True,
        cuda_graphs="auto",
    )


def main(
    model: Annotated[str, typer.Option()] = "resnet20",
    count: Annotated[int, typer.Option("--images")] = 2560,
    rounds: Annotated[int, typer.Option()] = 5,
    device: Annotated[str, typer.Option()] = "cpu",
    threads: Annotated[int, typer.Option()] = 2,
    price_only: Annotated[bool, typer.Option("--price-only")] = False,
    study_only: Annotated[bool, typer.Option("--study-only")] = False,
    epochs: Annotated[float, typer.Option(help="Part of the study's epochs.")] = 0.25,
) -> None:
    """Compare the training loops; see the top of this file."""
    if study_only:
        report_price("all trainings of params.yaml", StudyWork(epochs).seconds, rounds)
        return

    if DATASETS["cifar10"](DataConfig(RAW)).missing():
        print("CIFAR-10 is not in data/raw: random images of its size instead")
    if not price_only:
        compare_loops(model, count, rounds, device, threads)
    if device == "cpu":
        for work in (
            Work(model, "CIFAR-10", count, 128, threads),
            Work("resnet8", "digits", 1212, 64, 1),
        ):
            name = f"{work.model} on {work.dataset}, threads {work.threads}"
            report_price(name, work.seconds, rounds)


def compare_loops(model: str, count: int, rounds: int, device: str, threads: int) -> None:
    split = images(count)
    shipped = read_params()
    recipe = Finetune(**shipped["finetune"] | {"epochs": 1, "batch_size": 128})
    for precision in ("fp32", "auto"):
        execution = configure(runtime(device, precision, threads, "native"))
        trainer = our_trainer(split, execution)
        pairs = [
            (usual(model, split, recipe, execution.device), ours(model, trainer, recipe))
            for _ in range(rounds)
        ]
        report(model, execution, pairs)


if __name__ == "__main__":
    typer.run(main)
