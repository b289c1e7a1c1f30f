"""Measure networks against the dense one on this machine: latency, memory, energy, operators."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from prunelab.benchmarking import energy, memory
from prunelab.benchmarking.backends import BACKENDS, REMARKS, Runnable, inputs_like, precision
from prunelab.benchmarking.latency import (
    doubt,
    quantiles,
    speedup_of,
    summary,
    time_interleaved,
    timer,
)
from prunelab.benchmarking.operators import operators
from prunelab.core.registry import pick
from prunelab.runtime.device import Execution

Row = dict[str, Any]

WARM_UP_SHARE = 0.25  # of the time measured, per network
MAX_OPERATORS_BATCH_SIZE = 64
TOP_OPERATORS = 12


@dataclass(frozen=True)
class Benchmark:
    """Networks of the same inputs by name, the dense one first.

    `models` are on the device and in evaluation mode. `load` reads each of them again, on the CPU.
    `example` is one input, [1, ...].
    """

    models: Mapping[str, nn.Module]
    load: Mapping[str, Callable[[], nn.Module]]
    example: Tensor
    execution: Execution

    @property
    def dense(self) -> str:
        """The name of the dense network."""
        return next(iter(self.models))

    def runnables(self, backend: str, batch_size: int) -> dict[str, Runnable]:
        """One call of every network on the same inputs."""
        make_runnable = pick(BACKENDS, backend, "backend")
        inputs = inputs_like(self.example, batch_size, self.execution)

        runnables = {}
        for name, model in self.models.items():
            runnables[name] = make_runnable(model, inputs, self.execution)
        return runnables

    def latency(self, backend: str, batch_size: int, *, rounds: int, seconds: float) -> list[Row]:
        """One row per network: percentiles of all calls, and the gain on the dense network.

        Each network is measured for about `seconds`, which are divided into `rounds`.
        """
        call_seconds = time_interleaved(
            self.runnables(backend, batch_size),
            timer(self.execution.device),
            rounds=rounds,
            round_s=seconds / rounds,
            warm_up_s=WARM_UP_SHARE * seconds,
        )

        rows = []
        for name, taken in call_seconds.items():
            row: Row = {
                "name": name,
                "backend": backend,
                "precision": precision(backend, self.execution),
                "batch_size": batch_size,
                "latency_ms_quantiles": quantiles(taken),
                **summary(taken, batch_size),
            }
            if backend in REMARKS:
                row |= REMARKS[backend](self.models[name])
            if name != self.dense:
                dense = call_seconds[self.dense]
                speedup = speedup_of(dense, taken)
                row |= speedup.row(doubt({self.dense: dense, name: taken}, speedup))
            rows.append(row)

        return rows

    def memory(self, batch_size: int) -> list[Row]:
        """One row per network with its peak memory in bytes, None if it cannot be measured."""
        shape = tuple(self.example.shape[1:])
        peaks = memory.peaks(self.execution, list(self.load.values()), shape, batch_size)

        rows = []
        for name, peak in zip(self.load, peaks, strict=True):
            rows.append({"name": name, "batch_size": batch_size, "peak_bytes": peak})
        return rows

    def energy(self, batch_size: int) -> list[Row] | str:
        """One row per network with its joules per input, or why they are not known."""
        counter = energy.counter(self.execution.device)
        if isinstance(counter, str):
            return counter

        rows = []
        for name, call in self.runnables("eager", batch_size).items():
            joules = energy.per_call(call, counter, timer(self.execution.device))
            rows.append({"name": name, "batch_size": batch_size, "joules": joules / batch_size})
        return rows

    def operators(self, batch_sizes: list[int]) -> list[Row]:
        """One row per network and operator.

        The batch size is the largest up to `MAX_OPERATORS_BATCH_SIZE`, else the smallest.
        """
        small = [size for size in batch_sizes if size <= MAX_OPERATORS_BATCH_SIZE]
        batch_size = max(small, default=min(batch_sizes))

        rows = []
        for name, call in self.runnables("eager", batch_size).items():
            for row in operators(call, self.execution.device, TOP_OPERATORS):
                rows.append({"name": name, "batch_size": batch_size, **row})
        return rows
