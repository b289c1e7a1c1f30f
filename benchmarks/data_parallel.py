"""Images per second of one process and of several that train one network together, on one machine,
in one run.

    python benchmarks/data_parallel.py [--processes 2] [--threads 1] [--model resnet20] [--device
    cpu]

On a CPU the one process has as many threads as the several have in all; on GPUs each process has
one, and the one process one GPU. Same network, global batch, images, augmentation. The arms
alternate, each in fresh processes that train two epochs of which the second is timed, and the
figure is the median ratio of neighbouring rounds. CIFAR-10 from data/raw, else random images of its
size: the work is the same.
"""

import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from training import images, our_trainer, synchronise

from prunelab.config.params import Finetune, Runtime, read_params
from prunelab.core.lifecycle import launch
from prunelab.models.networks import build
from prunelab.runtime.device import configure_native
from prunelab.runtime.distributed import join, leave


def work(out: Path, model: str, count: int, batch_size: int, device: str, threads: int) -> None:
    """Train in one process; the first process writes the images per second of all to a file."""
    shipped = read_params()
    execution = configure_native(
        Runtime(**shipped["runtime"] | {"device": device, "threads": threads})
    )
    distributed = join(execution)
    trainer = our_trainer(images(count), execution, distributed)
    recipe = Finetune(**shipped["finetune"] | {"epochs": 1, "batch_size": batch_size})
    network = build(model, 10, (3, 32, 32))
    for _ in range(2):
        start = time.perf_counter()
        trainer.fit(network, recipe)
        synchronise(execution.device)
        seconds = time.perf_counter() - start
    if distributed.first:
        out.write_text(str(count / seconds))
    leave()


def main(
    processes: Annotated[int, typer.Option(min=2)] = 2,
    threads: Annotated[int, typer.Option(help="of each process")] = 1,
    model: Annotated[str, typer.Option()] = "resnet20",
    count: Annotated[int, typer.Option("--images")] = 2560,
    batch_size: Annotated[int, typer.Option()] = 128,
    device: Annotated[str, typer.Option()] = "cpu",
    rounds: Annotated[int, typer.Option()] = 5,
    out: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Compare one process with several; see the top of this file."""
    if out:
        work(out, model, count, batch_size, device, threads)
        return
    pairs = []
    for _ in range(rounds):
        pair = []
        for several in (1, processes):
            each = threads * processes // several if device == "cpu" else threads
            with tempfile.TemporaryDirectory() as folder:
                result = Path(folder) / "images_per_s"
                options = {
                    "out": result,
                    "threads": each,
                    "model": model,
                    "images": count,
                    "device": device,
                }
                options["batch-size"] = batch_size
                words = [
                    word for name, value in options.items() for word in (f"--{name}", str(value))
                ]
                launch([sys.executable, __file__, *words], several)
                pair.append(float(result.read_text()))
        pairs.append(pair)
        print(
            f"  one {pair[0]:,.0f} images/s, {processes} processes {pair[1]:,.0f}; load "
            f"{os.getloadavg()[0]:.1f}"
        )
    ratios = sorted(several / one for one, several in pairs)
    print(
        f"{model}, {device}, batch {batch_size}: one process "
        f"{median(one for one, _ in pairs):,.0f} images/s, "
        f"{processes} processes {median(several for _, several in pairs):,.0f} images/s; "
        f"ratio {median(ratios):.2f}x (rounds from {ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


if __name__ == "__main__":
    typer.run(main)
