"""Measure networks against the dense one on this machine: latency, memory, energy, operators."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from prunelab.benchmark import energy, memory
from prunelab.benchmark.backends import BACKENDS, Runnable, inputs_of, precision
from prunelab.benchmark.latency import quantiles, ratio, summary, time_interleaved, timer
from prunelab.benchmark.operators import operators
from prunelab.core.registry import pick
from prunelab.models.catalogue import Shape
from prunelab.runtime.device import Execution

Row = dict[str, Any]
WARM_UP = 0.25  # of the time measured, per network
OPERATORS_AT = 64  # the largest batch size up to this, if there is one
TOP_OPERATORS = 12


@dataclass(frozen=True)
class Benchmark:
    """Networks of one input shape by name, the first the dense one; `load` reads one anew, on the CPU."""

    models: Mapping[str, nn.Module]
    load: Mapping[str, Callable[[], nn.Module]]
    shape: Shape
    execution: Execution

    @property
    def dense(self) -> str:
        return next(iter(self.models))

    def arms(self, backend: str, batch_size: int) -> dict[str, Runnable]:
        run, inputs = (
            pick(BACKENDS, backend, "backend"),
            inputs_of(self.shape, batch_size, self.execution),
        )
        return {name: run(model, inputs, self.execution) for name, model in self.models.items()}

    def latency(self, backend: str, batch_size: int, *, rounds: int, seconds: float) -> list[Row]:
        """One row per network: percentiles and quantiles of all calls, and how many times faster than the dense one."""
        measured = time_interleaved(
            self.arms(backend, batch_size),
            timer(self.execution.device),
            rounds=rounds,
            round_s=seconds / rounds,
            warm_up_s=WARM_UP * seconds,
        )
        about = {
            "backend": backend,
            "precision": precision(backend, self.execution),
            "batch_size": batch_size,
        }
        return [
            {"name": name, **about, "latency_ms_quantiles": quantiles(taken)}
            | summary(taken, batch_size)
            | self._against_dense(name, measured)
            for name, taken in measured.items()
        ]

    def _against_dense(self, name: str, measured: Mapping[str, Any]) -> Row:
        if name == self.dense:
            return {}
        return ratio(measured[self.dense], measured[name]).row()

    def memory(self, batch_size: int) -> list[Row]:
        with memory.meter(self.execution) as measure:
            return [
                {
                    "name": name,
                    "batch_size": batch_size,
                    "peak_bytes": measure(load, self.shape, batch_size),
                }
                for name, load in self.load.items()
            ]

    def energy(self, batch_size: int) -> list[Row] | str:
        """Joules per input, or why they are not known."""
        joules = energy.counter(self.execution.device)
        if isinstance(joules, str):
            return joules
        timed = timer(self.execution.device)
        return [
            {
                "name": name,
                "batch_size": batch_size,
                "joules": energy.per_call(call, joules, timed) / batch_size,
            }
            for name, call in self.arms("eager", batch_size).items()
        ]

    def operators(self, batch_sizes: list[int]) -> list[Row]:
        batch_size = max(
            (size for size in batch_sizes if size <= OPERATORS_AT), default=min(batch_sizes)
        )
        return [
            {"name": name, "batch_size": batch_size, **row}
            for name, call in self.arms("eager", batch_size).items()
            for row in operators(call, self.execution.device, TOP_OPERATORS)
        ]
