"""What pruning saves in time, beside what it saves in MACs, on this machine.

    python benchmarks/latency.py [--network resnet56] [--rounds 12] [--device cpu] [--threads 2]
    [--compiled]

For each network, at 2, 4 and 8 times fewer MACs, with channel widths as they come and as multiples
of 8: the latency of the dense and the pruned network, which take turns, their ratio with its 95 %
interval, and the exponent that relates the two gains, log(latency gain) / log(MACs gain). For
ResNet-50 on GPUs published values give 0.42 to 0.58. Below them masks over single weights at 50,
80, 90 and 95 %, which save nothing. Weights are random: time does not depend on them. With
--compiled, one budget also by torch.compile.
"""

import math
from collections.abc import Iterable
from copy import deepcopy
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

SMALL, LARGE = (3, 32, 32), (3, 224, 224)
NETWORKS: dict[str, tuple[Shape, tuple[int, ...]]] = {
    "resnet56": (SMALL, (1, 64)),
    "resnet18": (SMALL, (1, 64)),
    "vgg16_bn": (SMALL, (1, 64)),
    "efficientnet_b0": (LARGE, (1, 8)),
}
FEWER = (2, 4, 8)
COMPILED_AT = 4
SPARSITIES = (0.5, 0.8, 0.9, 0.95)
HEADER = (
    "| network | batch | what | MACs | dense, ms | pruned, ms | faster | exponent |\n"
    "|:--|--:|:--|--:|--:|--:|:--|--:|"
)


def pruned(name: str, dense: nn.Module, shape: Shape, method: str, **settings: object) -> nn.Module:
    shipped = read_params()["prune"]
    model = deepcopy(dense)
    spec = PruneSpec(**shipped | {"method": method, **settings})
    prune(model, name, spec, shape=shape, seed=0)
    return model


def variants(
    name: str, dense: nn.Module, shape: Shape
) -> Iterable[tuple[str, nn.Module | str, bool]]:
    """What it is, the network (or why there is none), and whether to compile it too."""
    for fewer in FEWER:
        for step in (1, 8):
            what = f"{fewer}x fewer MACs" + (", widths in steps of 8" if step > 1 else "")
            settings = {"ratio": 1 - 1 / fewer, "budget": "macs", "round_to": step}
            try:
                yield (
                    what,
                    pruned(name, dense, shape, "l1_channel", **settings),
                    fewer == COMPILED_AT and step > 1,
                )
            except InputError as refused:
                yield what, str(refused).partition(". Every layer")[0], False
    for sparsity in SPARSITIES:
        masked = pruned(name, dense, shape, "l1_unstructured", ratio=sparsity, budget="native")
        yield f"{sparsity:.0%} of the weights masked", masked, False


def line(
    name: str,
    batch: int,
    what: str,
    pair: tuple[nn.Module, nn.Module],
    gain: float,
    shape: Shape,
    execution: Execution,
    rounds: int,
    backend: str,
) -> str:
    inputs, run = inputs_of(shape, batch, execution), BACKENDS[backend]
    arms = {
        which: run(model, inputs, execution)
        for which, model in zip(("dense", "pruned"), pair, strict=True)
    }
    seconds = time_interleaved(
        arms, timer(execution.device), rounds=rounds, round_s=0.3, warm_up_s=1.0
    )
    faster = speedup_of(seconds["dense"], seconds["pruned"])
    slow, fast = (summary(seconds[which], batch)["latency_ms_p50"] for which in arms)
    exponent = (
        f"{math.log(faster.value) / math.log(gain):.2f}" if gain > 1.01 and faster.differs else ""
    )
    cells = [f"{gain:.2f}x", f"{slow:.2f}", f"{fast:.2f}", faster.describe(), exponent]
    return f"| {name} | {batch} | {what} | " + " | ".join(cells) + " |"


def main(
    network: Annotated[
        list[str] | None, typer.Option(help=f"of {', '.join(NETWORKS)}; all by default")
    ] = None,
    rounds: Annotated[int, typer.Option(min=2)] = 12,
    device: Annotated[str, typer.Option()] = "cpu",
    threads: Annotated[int, typer.Option()] = 2,
    compiled: Annotated[bool, typer.Option("--compiled")] = False,
) -> None:
    """Measure and print; see the top of this file."""
    runtime = read_params()["runtime"] | {"device": device, "threads": threads, "precision": "fp32"}
    execution = configure_native(Runtime(**runtime))
    where = fingerprint(execution)["device"]
    print(
        f"{where}, {threads} threads, fp32, channels_last, eager unless it says compiled, "
        f"{rounds} rounds\n\n{HEADER}"
    )
    for name in network or NETWORKS:
        shape, batches = NETWORKS[name]
        dense = build(name, 10, shape).eval()
        cost = macs(dense, shape)
        for what, model, compile_too in variants(name, dense, shape):
            if isinstance(model, str):
                print(f"| {name} | | {what} | {model} | | | | |", flush=True)
                continue
            gain = cost / macs(model, shape)
            pair = execution.place(deepcopy(dense)).eval(), execution.place(model).eval()
            for batch in batches:
                print(
                    line(name, batch, what, pair, gain, shape, execution, rounds, "eager"),
                    flush=True,
                )
                if compiled and compile_too:
                    compiled_label = f"{what}, compiled"
                    print(
                        line(
                            name,
                            batch,
                            compiled_label,
                            pair,
                            gain,
                            shape,
                            execution,
                            rounds,
                            "compiled",
                        ),
                        flush=True,
                    )


if __name__ == "__main__":
    typer.run(main)
