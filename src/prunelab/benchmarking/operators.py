"""The time of one call, operator by operator."""

import os
from typing import Any

import torch

from prunelab.benchmarking.backends import Runnable

CALLS = 5
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
