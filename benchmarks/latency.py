"""What pruning saves in time, beside what it saves in MACs, on this machine.

    python benchmarks/latency.py [--network resnet56] [--rounds 12] [--threads 2] [--compiled]
    python benchmarks/latency.py --device cuda [--batch-size 1 --batch-size 64 --batch-size 256]
    python benchmarks/latency.py --network timm/tf_efficientnet_lite0 --fewer 1.58 --fewer 3

For each network, at 2, 4 and 8 times fewer MACs (or as --fewer says), with channel widths as they
come and as multiples of 8: the latency of the dense and the pruned network, which take turns, their
ratio with its 95 % interval, and the exponent that relates the two gains, log(latency gain) /
log(MACs gain). For ResNet-50 on GPUs published values give 0.42 to 0.58. Below them
masks over single weights at 50, 80, 90 and 95 %, which save nothing. Weights are random: time does
not depend on them.

On a GPU every network is also measured as one recorded CUDA graph, without the time of launches.
With --compiled, one budget also by torch.compile.
"""

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated

import typer
from torch import nn

from prunelab.benchmarking.backends import BACKENDS, inputs_of
from prunelab.benchmarking.latency import speedup_of, summary, time_interleaved, timer
from prunelab.config.params import PruneSpec, Runtime, read_params
from prunelab.core.errors import InputError
from prunelab.models.catalogue import Shape
from prunelab.models.cost import macs
from prunelab.models.networks import build
from prunelab.pruning.prune import prune
from prunelab.runtime.device import Execution, configure_native, fingerprint

PARAMS = Path(__file__).parents[1] / "params.yaml"
SMALL, MIDDLE, LARGE = (3, 32, 32), (3, 96, 96), (3, 224, 224)
NETWORKS: dict[str, Shape] = {
    "resnet56": SMALL,
    "resnet18": SMALL,
    "vgg16_bn": SMALL,
    "resnet50": LARGE,
    "efficientnet_b0": LARGE,
    "timm/tf_efficientnet_lite0": MIDDLE,
    "vit_b_16": LARGE,
}
CPU_BATCH_SIZES: dict[Shape, tuple[int, ...]] = {
    SMALL: (1, 64),
    MIDDLE: (1, 64),
    LARGE: (1, 8),
}
GPU_BATCH_SIZES = (1, 64, 256)

FEWER = (2.0, 4.0, 8.0)
COMPILED_AT = 4
SPARSITIES = (0.5, 0.8, 0.9, 0.95)
ROUND_S = 0.3
WARM_UP_S = 1.0
HEADER = (
    "| network | batch | backend | what | MACs | dense, ms | pruned, ms | faster | exponent |\n"
    "|:--|--:|:--|:--|--:|--:|--:|:--|--:|"
)


@dataclass(frozen=True)
class Variant:
    """A pruned form of a network: what it is, and the network or why there is none."""

    what: str
    model: nn.Module | str
    compile_too: bool = False


def pruned(name: str, dense: nn.Module, shape: Shape, method: str, **settings: object) -> nn.Module:
    """A pruned copy of a network."""
    shipped = read_params(PARAMS)["prune"]
    spec = PruneSpec(**shipped | {"method": method, **settings})
    model = deepcopy(dense)
    prune(model, name, spec, shape=shape, seed=0)
    return model


def variants(
    name: str, dense: nn.Module, shape: Shape, ratios: Sequence[float]
) -> Iterator[Variant]:
    """Networks with so many times fewer MACs, then masked ones."""
    for fewer in ratios:
        for step in (1, 8):
            what = f"{fewer:g}x fewer MACs"
            if step > 1:
                what += f", widths in steps of {step}"

            settings = {"ratio": 1 - 1 / fewer, "budget": "macs", "round_to": step}
            try:
                model = pruned(name, dense, shape, "l1_channel", **settings)
            except InputError as refused:
                reason = str(refused).partition(". Every layer")[0]
                yield Variant(what, reason)
                continue
            yield Variant(what, model, compile_too=fewer == COMPILED_AT and step > 1)

    for sparsity in SPARSITIES:
        model = pruned(name, dense, shape, "l1_unstructured", ratio=sparsity, budget="native")
        yield Variant(f"{sparsity:.0%} of the weights masked", model)


@dataclass(frozen=True)
class Comparison:
    """A dense network and a pruned one on the device, and how many times fewer MACs it has."""

    dense: nn.Module
    pruned: nn.Module
    fewer_macs: float
    shape: Shape
    execution: Execution

    def cells(self, backend: str, batch_size: int, rounds: int) -> list[str]:
        """MACs, both latencies, their ratio and the exponent, measured in turns."""
        make_runnable = BACKENDS[backend]
        inputs = inputs_of(self.shape, batch_size, self.execution)
        runnables = {
            "dense": make_runnable(self.dense, inputs, self.execution),
            "pruned": make_runnable(self.pruned, inputs, self.execution),
        }
        seconds = time_interleaved(
            runnables,
            timer(self.execution.device),
            rounds=rounds,
            round_s=ROUND_S,
            warm_up_s=WARM_UP_S,
        )

        faster = speedup_of(seconds["dense"], seconds["pruned"])
        exponent = ""
        if self.fewer_macs > 1.01 and faster.differs:
            exponent = f"{math.log(faster.value) / math.log(self.fewer_macs):.2f}"

        latencies = []
        for calls in seconds.values():
            latencies.append(f"{summary(calls, batch_size)['latency_ms_p50']:.3g}")
        return [f"{self.fewer_macs:.2f}x", *latencies, faster.describe(), exponent]


def measure(
    name: str,
    execution: Execution,
    batch_sizes: Sequence[int],
    rounds: int,
    *,
    ratios: Sequence[float],
    compiled: bool,
) -> Iterator[str]:
    """The lines of the table of one network, at so many times fewer MACs."""
    shape = NETWORKS[name]
    dense = build(name, 10, shape).eval()
    dense_macs = macs(dense, shape)

    backends = ["eager"]
    if execution.device.type == "cuda":
        backends.append("cuda_graph")

    for variant in variants(name, dense, shape, ratios):
        if isinstance(variant.model, str):
            yield f"| {name} | | | {variant.what} | {variant.model} | | | | |"
            continue

        comparison = Comparison(
            dense=execution.place(deepcopy(dense)).eval(),
            pruned=execution.place(variant.model).eval(),
            fewer_macs=dense_macs / macs(variant.model, shape),
            shape=shape,
            execution=execution,
        )
        chosen = backends
        if compiled and variant.compile_too:
            chosen = [*backends, "compiled"]

        for batch_size, backend in product(batch_sizes, chosen):
            cells = comparison.cells(backend, batch_size, rounds)
            yield f"| {name} | {batch_size} | {backend} | {variant.what} | {' | '.join(cells)} |"


def main(
    network: Annotated[
        list[str] | None, typer.Option(help=f"of {', '.join(NETWORKS)}; all by default")
    ] = None,
    batch_size: Annotated[
        list[int] | None, typer.Option(help="1, 64 and 256 on a GPU by default; fewer on a CPU")
    ] = None,
    fewer: Annotated[
        list[float] | None, typer.Option(help="times fewer MACs; 2, 4 and 8 by default")
    ] = None,
    rounds: Annotated[int, typer.Option(min=2)] = 12,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    precision: Annotated[str, typer.Option(help="fp32 or bf16")] = "fp32",
    threads: Annotated[int, typer.Option()] = 2,
    compiled: Annotated[bool, typer.Option("--compiled")] = False,
) -> None:
    """Measure and print; see the top of this file."""
    settings = {"device": device, "threads": threads, "precision": precision}
    execution = configure_native(Runtime(**read_params(PARAMS)["runtime"] | settings))
    where = fingerprint(execution)["device"]
    print(f"{where}, {threads} threads, {precision}, channels_last, {rounds} rounds\n\n{HEADER}")

    for name in network or NETWORKS:
        batch_sizes: Sequence[int] = GPU_BATCH_SIZES
        if device == "cpu":
            batch_sizes = CPU_BATCH_SIZES[NETWORKS[name]]
        if batch_size:
            batch_sizes = batch_size

        lines = measure(
            name, execution, batch_sizes, rounds, ratios=fewer or FEWER, compiled=compiled
        )
        for line in lines:
            print(line, flush=True)


if __name__ == "__main__":
    typer.run(main)
