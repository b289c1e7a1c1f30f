"""What a GPU gains by recorded steps and by seeds that train at once, on one card, in one run.

    python benchmarks/gpu.py [--networks resnet20,resnet56] [--out gpu.json] [--smoke]

For each network: images per second of the usual recipe (as in training.py: PIL images, a DataLoader
with workers, float32), of our loop with every step run as it is, of that with images streamed from
a file, of the same loop with steps recorded as CUDA graphs, and of three seeds at once, in bf16.
Every epoch ends with a validation of an eighth as many images. `bits` compares every weight after
two epochs: recorded against run one by one, streamed against in memory, and one seed among three
against the same seed alone.
`capture` is what recording adds to a training. Images and texts are random: time does not depend on
them. Steps with texts are not recorded, because texts differ in length. Networks with dropout train
one after another, so they have no figure for three seeds.

`--smoke` runs a small part of it on a CPU, where nothing is recorded.
"""

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import nn
from training import MEAN, STD, usual

from prunelab.config.params import Finetune, Normalise, Runtime, read_params
from prunelab.data.augment import Augmentation
from prunelab.data.loader import BatchLoader
from prunelab.data.splits import Split
from prunelab.models.networks import build
from prunelab.runtime.device import Execution, configure_native, fingerprint
from prunelab.runtime.streams import in_threads, side_by_side
from prunelab.training.callbacks import Callback
from prunelab.training.cuda_graphs import GraphRecorder
from prunelab.training.trainer import Trainer, TrainResult

PARAMS = Path(__file__).parents[1] / "params.yaml"
SEEDS = (0, 1, 2)
STEPS_PER_VALIDATION_STEP = 8  # as with 45,000 training and 5,000 validation images, or about so
BITS_AFTER = 2  # epochs
MINILM = {
    "vocab": 30522,
    "hidden": 384,
    "layers": 6,
    "heads": 12,
    "intermediate": 1536,
    "positions": 512,
}


@dataclass(frozen=True)
class Case:
    """A network, its inputs, and how many epochs are timed in each arm; 0 leaves an arm out."""

    network: str
    shape: tuple[int, ...] = (3, 32, 32)
    classes: int = 10
    batch_size: int = 128
    steps: int = 176  # an epoch of half of CIFAR-10
    usual_workers: tuple[int, ...] = ()
    disk_workers: int = 0  # that read images from a file; 0 leaves this arm out
    eager_epochs: int = 1
    graph_epochs: int = 3
    seed_epochs: int = 3

    @property
    def options(self) -> dict[str, int]:
        return MINILM if self.network == "bert" else {}


CASES = (
    Case("resnet20", usual_workers=(2, 8), graph_epochs=8, seed_epochs=8),
    Case("resnet56", usual_workers=(8,)),
    Case("resnet18", usual_workers=(8,), disk_workers=4),
    Case("vgg19_bn", usual_workers=(8,)),
    Case(
        "efficientnet_b0",
        (3, 224, 224),
        1000,
        64,
        steps=40,
        disk_workers=8,
        graph_epochs=2,
        seed_epochs=0,
    ),
    Case("bert", (64,), 10, 64, steps=80, graph_epochs=0, seed_epochs=0),
)
SMOKE = Case(
    "resnet8",
    batch_size=8,
    steps=4,
    usual_workers=(1,),
    disk_workers=1,
    eager_epochs=1,
    graph_epochs=1,
    seed_epochs=1,
)


class Clock(Callback):
    """Notes when the first epoch, which warms up, has ended; waits there for other seeds."""

    def __init__(self, device: torch.device, together: threading.Barrier | None = None) -> None:
        self.start = 0.0
        self._device = device
        self._together = together

    def before_epoch(self, epoch: int) -> None:
        if epoch == 1:
            synchronise(self._device)
            if self._together:
                with side_by_side():
                    self._together.wait(timeout=120)
            self.start = time.perf_counter()


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.current_stream().synchronize()


@dataclass(frozen=True)
class Timed:
    """One training: its result, and when its timed epochs began and ended."""

    result: TrainResult
    start: float
    end: float


class Bench:
    """Trains the network of a case in all arms."""

    def __init__(self, case: Case, execution: Execution) -> None:
        self.case = case
        self.execution = execution
        self.images = case.steps * case.batch_size
        self.split = _random_split(case, self.images)

        self.normalise = None
        augmentation = Augmentation()
        if len(case.shape) == 3:
            self.normalise = Normalise(mean=MEAN, std=STD)
            augmentation = Augmentation(crop_padding=4, flip=True)
        validation_steps = max(1, case.steps // STEPS_PER_VALIDATION_STEP)
        validation = self.split.at(np.arange(validation_steps * case.batch_size))
        self.trainer = Trainer(
            BatchLoader(self.split, self.normalise, execution),
            BatchLoader(validation, self.normalise, execution),
            augmentation,
            execution,
        )

    def recipe(self, epochs: int) -> Finetune:
        shipped = read_params(PARAMS)["finetune"]
        changes = {
            "epochs": 1 + epochs,
            "batch_size": self.case.batch_size,
            "schedule": "constant",  # so that arms with other numbers of epochs take the same steps
            "warmup": 0.0,
            "learning_rate": 0.01,
        }
        return Finetune(**shipped | changes)

    def train(
        self,
        seed: int,
        epochs: int,
        *,
        graphs: bool,
        together: threading.Barrier | None = None,
        images: BatchLoader | None = None,
    ) -> Timed:
        """Train one network, on `images` in place of those in memory if they are given."""
        execution = replace(self.execution, cuda_graphs=graphs and self.execution.cuda_graphs)
        trainer = replace(self.trainer, execution=execution, seed=seed, label=self.case.network)
        if images is not None:
            trainer = replace(trainer, train_loader=images)
        model = self.model(seed)
        clock = Clock(self.execution.device, together)

        result = trainer.fit(
            model, self.recipe(epochs), callback=clock, keep_epochs={min(BITS_AFTER, 1 + epochs)}
        )
        synchronise(self.execution.device)
        return Timed(result, clock.start, time.perf_counter())

    def model(self, seed: int) -> nn.Module:
        case = self.case
        return build(case.network, case.classes, case.shape, seed, **case.options)

    def train_from_disk(self, epochs: int) -> Timed:
        """As `train`, with images that workers read from a file."""
        with TemporaryDirectory() as folder:
            file = Path(folder) / "images.npy"
            np.save(file, self.split.inputs)
            mapped = Split(np.load(file, mmap_mode="r"), self.split.labels)
            images = BatchLoader(
                mapped, self.normalise, self.execution, workers=self.case.disk_workers
            )
            return self.train(0, epochs, graphs=False, images=images)

    def seeds_at_once(self, epochs: int) -> list[Timed]:
        together = threading.Barrier(len(SEEDS))

        def train(seed: int) -> Timed:
            return self.train(seed, epochs, graphs=True, together=together)

        return list(in_threads(SEEDS, train, self.execution.device))

    def speed(self, runs: Sequence[Timed], epochs: int) -> float:
        """Images per second of runs side by side."""
        seconds = max(run.end for run in runs) - min(run.start for run in runs)
        return len(runs) * epochs * self.images / seconds


def _random_split(case: Case, images: int) -> Split:
    random = np.random.default_rng(0)
    labels = random.integers(0, case.classes, images)
    if len(case.shape) == 3:
        return Split(random.integers(0, 256, (images, *case.shape), dtype=np.uint8), labels)

    (tokens,) = case.shape
    ids = random.integers(1000, 30000, (images, tokens))
    lengths = random.integers(tokens // 4, tokens + 1, images)
    return Split(np.where(np.arange(tokens) < lengths[:, None], ids, 0), labels)


def same_bits(left: Timed, right: Timed) -> bool:
    """Whether two trainings had the same weights where both kept them."""
    (left_weights,), (right_weights,) = left.result.kept.values(), right.result.kept.values()
    return all(torch.equal(value, right_weights[name]) for name, value in left_weights.items())


class _CaptureTimer:
    """Sums the time that recordings take, and counts them."""

    def __init__(self) -> None:
        self.seconds, self.count = 0.0, 0
        record = GraphRecorder.record

        def timed(recorder: GraphRecorder, *args: Any) -> Any:
            start = time.perf_counter()
            recording = record(recorder, *args)
            self.seconds += time.perf_counter() - start
            self.count += recording is not None
            return recording

        GraphRecorder.record = timed  # type: ignore[method-assign]


def measure(case: Case, execution: Execution, captures: _CaptureTimer) -> dict[str, Any]:
    """One row of the table."""
    bench = Bench(case, execution)
    row: dict[str, Any] = {"network": case.network, "batch_size": case.batch_size}

    for workers in case.usual_workers:
        recipe = bench.recipe(0)
        row[f"usual_{workers}_workers"] = usual(
            case.network, bench.split, recipe, execution.device, workers
        )
    configure_native(_runtime(execution.device.type))  # `usual` has other settings

    eager = bench.train(0, case.eager_epochs, graphs=False)
    row["eager"] = bench.speed([eager], case.eager_epochs)

    if case.disk_workers:
        from_disk = bench.train_from_disk(case.eager_epochs)
        row["disk"] = bench.speed([from_disk], case.eager_epochs)
        row["disk_bits"] = same_bits(from_disk, eager)

    one = eager
    if case.graph_epochs:
        captures.seconds, captures.count = 0.0, 0
        one = bench.train(0, case.graph_epochs, graphs=True)
        row["graph"] = bench.speed([one], case.graph_epochs)
        row["graph_bits"] = same_bits(one, eager)
        row["recordings"], row["capture_s"] = captures.count, captures.seconds

    if case.seed_epochs:
        several = bench.seeds_at_once(case.seed_epochs)
        row["seeds"] = bench.speed(several, case.seed_epochs)
        row["seeds_bits"] = same_bits(several[0], one)

    row["memory_gb"] = 0.0
    if execution.device.type == "cuda":
        row["memory_gb"] = torch.cuda.max_memory_reserved() / 2**30
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return row


def _runtime(device: str) -> Runtime:
    shipped = read_params(PARAMS)["runtime"]
    return Runtime(**shipped | {"device": device, "precision": "auto", "cuda_graphs": "auto"})


HEADER = (
    "| network | usual recipe | eager | from disk | graph | three seeds | disk ÷ eager "
    "| graph ÷ eager | seeds ÷ graph | seeds ÷ usual | bits | capture, s |\n"
    "|:--|--:|--:|--:|--:|--:|--:|--:|--:|--:|:--|--:|"
)


def line(row: dict[str, Any]) -> str:
    """A row of the table in Markdown; of several usual recipes the fastest counts."""
    speeds = {name: row.get(name) for name in ("eager", "disk", "graph", "seeds")}
    usual_speeds = [value for name, value in row.items() if name.startswith("usual")]
    speeds["usual"] = max(usual_speeds, default=None)

    def number(name: str) -> str:
        return f"{speeds[name]:,.0f}" if speeds[name] else "-"

    def ratio(over: str, under: str) -> str:
        if not speeds[over] or not speeds[under]:
            return "-"
        return f"{speeds[over] / speeds[under]:.2f}"

    bits = [value for name, value in row.items() if name.endswith("_bits")]
    cells = [
        row["network"],
        *map(number, ("usual", "eager", "disk", "graph", "seeds")),
        ratio("disk", "eager"),
        ratio("graph", "eager"),
        ratio("seeds", "graph") if speeds["graph"] else ratio("seeds", "eager"),
        ratio("seeds", "usual"),
        "same" if all(bits) else "DIFFERENT",
        f"{row['capture_s']:.1f}" if "capture_s" in row else "-",
    ]
    return f"| {' | '.join(cells)} |"


def main(
    networks: Annotated[str, typer.Option(help="names, separated by commas")] = "",
    out: Annotated[Path | None, typer.Option(help="a JSON file for the table")] = None,
    usual_too: Annotated[bool, typer.Option("--usual/--no-usual")] = True,
    smoke: Annotated[bool, typer.Option("--smoke")] = False,
) -> None:
    """Compare the ways to train on this GPU; see the top of this file."""
    cases: tuple[Case, ...] = CASES
    if networks:
        cases = tuple(case for case in CASES if case.network in networks.split(","))
    device = "cuda"
    if smoke:
        cases, device = (SMOKE,), "cpu"
    if not usual_too:
        cases = tuple(replace(case, usual_workers=()) for case in cases)

    execution = configure_native(_runtime(device))
    record = fingerprint(execution)
    print(f"{record['device']}, torch {torch.__version__}, {record['precision']}; images/s")
    print(HEADER)
    captures = _CaptureTimer()
    rows = []
    for case in cases:
        row = measure(case, execution, captures)
        rows.append(row)
        print(line(row), flush=True)
        if out:
            out.write_text(json.dumps({"environment": record, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
