"""The time of one call, operator by operator."""

import os
from dataclasses import dataclass, field
from typing import Any

import torch

from prunelab.benchmarking.backends import Runnable

CALLS = 5
# Events that torch counts as no operators.
LEFT_OUT = {
    "[memory]",
    "[OutOfMemory]",
    "profiler::_record_function_enter",
    "profiler::_record_function_enter_new",
    "profiler::_record_function_exit",
    "aten::is_leaf",
    "aten::output_nr",
    "aten::_version",
}
NUMBERS = ("calls", "cpu_ms", "cuda_ms")


def operators(call: Runnable, device: torch.device, top: int) -> list[dict[str, Any]]:
    """The `top` operators that take most time themselves, and all others together.

    Milliseconds are per call; `cuda_ms` is 0 without a GPU. `calls` counts how often one call of
    the network runs the operator. The profiler slows things down, so look at the shares.
    """
    rows = _profile(call, device)
    key = "cuda_ms" if device.type == "cuda" else "cpu_ms"
    rows.sort(key=lambda row: -row[key])

    slowest, rest = rows[:top], rows[top:]
    if not rest:
        return slowest

    others: dict[str, Any] = {"operator": "others"}
    for number in NUMBERS:
        others[number] = sum(row[number] for row in rest)
    return [*slowest, others]


def _profile(call: Runnable, device: torch.device) -> list[dict[str, Any]]:
    """One row per operator, as means over `CALLS` calls."""
    # Without this, the profiler prints a line at every start and stop.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    from torch.autograd.profiler import profile  # torch.profiler would import torch's compiler

    use_device = "cuda" if device.type == "cuda" else None
    with profile(use_device=use_device, use_kineto=True):
        call()  # the first profile of a process sets the profiler up
    with profile(use_device=use_device, use_kineto=True) as profiler:
        for _ in range(CALLS):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize()

    if use_device is None:
        return cpu_operators(profiler, CALLS)

    rows = []
    for event in profiler.key_averages():
        row = {
            "operator": event.key,
            "calls": event.count / CALLS,
            "cpu_ms": event.self_cpu_time_total / 1000 / CALLS,
            "cuda_ms": event.self_device_time_total / 1000 / CALLS,
        }
        rows.append(row)
    return rows


@dataclass
class _Span:
    """An event: when an operator ran, in nanoseconds, and what ran within it."""

    name: str
    start: int
    end: int
    inner: list["_Span"] = field(default_factory=list)

    @property
    def self_ns(self) -> int:
        return self.end - self.start - sum(span.end - span.start for span in self.inner)


def cpu_operators(profiler: Any, calls: int) -> list[dict[str, Any]]:
    """What torch's `key_averages` says of a profile without a GPU, one row per operator.

    Torch makes an object of some 40 fields of every event, which takes longer than the calls.
    """
    threads: dict[int, list[_Span]] = {}
    for event in profiler.kineto_results.events():
        if event.name() not in LEFT_OUT and not event.is_hidden_event():
            span = _Span(event.name(), event.start_ns(), event.end_ns())
            threads.setdefault(event.start_thread_id(), []).append(span)

    totals: dict[str, list[int]] = {}
    for spans in threads.values():
        for span in _nested(spans):
            total = totals.setdefault(span.name, [0, 0])
            total[0] += 1
            total[1] += span.self_ns

    rows = []
    for name, (count, nanoseconds) in totals.items():
        cpu_ms = nanoseconds / 1e6 / calls
        rows.append({"operator": name, "calls": count / calls, "cpu_ms": cpu_ms, "cuda_ms": 0.0})
    return rows


def _nested(spans: list[_Span]) -> list[_Span]:
    """The spans of a thread, with what ran within each.

    An operator that does nothing but call one of the same name counts once, as torch counts it.
    """
    outer: list[_Span] = []
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        while outer and (span.start >= outer[-1].end or span.end > outer[-1].end):
            outer.pop()
        if outer:
            outer[-1].inner.append(span)
        outer.append(span)

    repeated = set()
    for span in spans:
        while id(span) not in repeated and len(span.inner) == 1 and span.inner[0].name == span.name:
            repeated.add(id(span.inner[0]))
            span.inner = span.inner[0].inner
    return [span for span in spans if id(span) not in repeated]
