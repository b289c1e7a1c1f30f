"""Measure the dense network and the grid on this machine: what rests on a clock, apart from all other metrics."""

import sys
from functools import partial
from pathlib import Path

from tqdm import tqdm

from prunelab.artifacts.networks import load_model, load_network, seed_file
from prunelab.benchmark.machine_load import machine_load
from prunelab.benchmark.speed_table import speed_table
from prunelab.benchmark.suite import Benchmark
from prunelab.config.params import load_params
from prunelab.core.files import write, write_json
from prunelab.runtime.device import configure, fingerprint
from prunelab.stages.entry import run


def main(dense: Path, grid: Path, out: Path) -> None:
    """Measure the networks of the first seed in the folders DENSE and GRID; write benchmark.json and a table to OUT."""
    params = load_params()
    execution = configure(params.runtime)
    asked, seed = params.benchmark, params.seeds[0]
    files = {"dense": seed_file(dense, seed)}
    files |= {key: seed_file(grid / key / "finetuned", seed) for *_, key in params.grid.cells()}
    networks = {name: load_network(file) for name, file in files.items()}
    bench = Benchmark(
        models={name: execution.place(network.model) for name, network in networks.items()},
        load={name: partial(load_model, file) for name, file in files.items()},
        shape=networks["dense"].card.input_shape,
        execution=execution,
    )
    seen = machine_load()
    if seen["busy"]:
        print(
            f"this machine is busy, so times are less sure: {', '.join(seen['busy'])}",
            file=sys.stderr,
        )
    pairs = [(backend, size) for backend in asked.backends for size in asked.batch_sizes]
    bar = tqdm(
        pairs, desc="benchmark", unit="batch size", disable=not sys.stderr.isatty(), leave=False
    )
    rows = [
        row
        for b, size in bar
        for row in bench.latency(b, size, rounds=asked.rounds, seconds=asked.seconds)
    ]
    measured = {
        "environment": fingerprint(execution) | {"memory_format": str(execution.memory_format)},
        "load": seen,
        "seed": seed,
        "rounds": asked.rounds,
        "latency": rows,
        "memory": bench.memory(max(asked.batch_sizes)),
        "energy": bench.energy(max(asked.batch_sizes)),
        "operators": bench.operators(asked.batch_sizes),
    }
    write_json(out / "benchmark.json", measured)
    write(
        out / "table.md",
        speed_table(measured, f"{params.model} on {params.dataset}: measured speed").encode(),
    )


if __name__ == "__main__":
    run(main)
