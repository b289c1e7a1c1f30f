"""Measure the speed of the dense network and the grid on this machine.

All that depends on a clock is measured here, apart from all other metrics.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from prunelab.artifacts.networks import load_model, load_network, seed_file
from prunelab.benchmarking.machine_load import watch_machine
from prunelab.benchmarking.speed_table import speed_table
from prunelab.benchmarking.suite import Benchmark
from prunelab.config.params import Params, load_params
from prunelab.core.files import write, write_json
from prunelab.models.networks import example_input
from prunelab.runtime.device import Execution, configure_native, fingerprint
from prunelab.stages.entry import run


def main(dense: Path, grid: Path, out: Path) -> None:
    """Measure the networks of the first seed in the folders DENSE and GRID.

    Writes benchmark.json and table.md to OUT.
    """
    load_before = watch_machine()
    params = load_params()
    execution = configure_native(params.runtime)
    seed = params.seeds[0]

    files = {"dense": seed_file(dense, seed)}
    for *_, key in params.grid.cells():
        files[key] = seed_file(grid / key / "finetuned", seed)
    benchmark = _load_benchmark(files, execution)

    # Memory comes first, as a process can be forked only before a progress bar starts a thread.
    batch_sizes = params.benchmark.batch_sizes
    peaks = benchmark.memory(max(batch_sizes))

    load = load_before()
    latencies = _latency_rows(benchmark, params)
    load_after = watch_machine()
    record = {
        "environment": fingerprint(execution) | {"memory_format": str(execution.memory_format)},
        "load": load,
        "seed": seed,
        "rounds": params.benchmark.rounds,
        "latency": latencies,
        "memory": peaks,
        "energy": benchmark.energy(max(batch_sizes)),
        "operators": benchmark.operators(batch_sizes),
    }

    load["busy"] = load["busy"] or load_after()["busy"]
    if load["busy"]:
        busy = ", ".join(load["busy"])
        print(f"this machine was busy, so times are less certain: {busy}", file=sys.stderr)

    write_json(out / "benchmark.json", record)
    table = speed_table(record, f"{params.model} on {params.dataset}: measured speed")
    write(out / "table.md", table.encode())


def _load_benchmark(files: dict[str, Path], execution: Execution) -> Benchmark:
    models = {}
    loaders = {}
    for name, file in files.items():
        network = load_network(file)
        models[name] = execution.place(network.model)
        loaders[name] = partial(load_model, file)
        example = example_input(network.card.input_shape)  # the same for all

    return Benchmark(models=models, load=loaders, example=example, execution=execution)


def _latency_rows(benchmark: Benchmark, params: Params) -> list[dict[str, Any]]:
    """The latencies by every backend at every batch size, under a progress bar."""
    settings = params.benchmark
    pairs = [(backend, size) for backend in settings.backends for size in settings.batch_sizes]
    bar = tqdm(
        pairs, desc="benchmark", unit="batch size", disable=not sys.stderr.isatty(), leave=False
    )

    rows = []
    for backend, size in bar:
        rows += benchmark.latency(backend, size, rounds=settings.rounds, seconds=settings.seconds)
    return rows


if __name__ == "__main__":
    run(main)
