"""Where the time of one call goes, operator by operator."""

import os
from typing import Any

import torch

from prunelab.benchmark.latency import Runnable

CALLS = 5


def operators(call: Runnable, device: torch.device, top: int) -> list[dict[str, Any]]:
    """The operators that take most time themselves, at most `top`, and the others together; milliseconds per call.

    `calls` counts how often one call of the network runs the operator; `cuda_ms` is 0 without a GPU. By torch.profiler,
    which slows things down: the shares are what to look at.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it tells the terminal of every start and stop
    from torch.profiler import ProfilerActivity, profile

    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(
        activities=activities
    ):  # the first profile of a process pays for what the others find done
        call()
    with profile(activities=activities, acc_events=True) as profiler:
        for _ in range(CALLS):
            call()
        if on_gpu:
            torch.cuda.synchronize()
    rows = [
        {
            "operator": event.key,
            "calls": event.count / CALLS,
            "cpu_ms": event.self_cpu_time_total / 1000 / CALLS,
            "cuda_ms": event.self_device_time_total / 1000 / CALLS,
        }
        for event in profiler.key_averages()
    ]
    rows.sort(key=lambda row: -row["cuda_ms" if on_gpu else "cpu_ms"])
    others = {key: sum(row[key] for row in rows[top:]) for key in ("calls", "cpu_ms", "cuda_ms")}
    return [*rows[:top], *([{"operator": "others", **others}] if rows[top:] else [])]
