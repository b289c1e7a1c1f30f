"""Latency, measured: networks take turns in one process, so that what slows the machine slows all of them."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from prunelab.artifacts.records import QUANTILES
from prunelab.benchmark.backends import Runnable
from prunelab.statistics.intervals import half_width

Timer = Callable[[Runnable], float]  # seconds of one call, until the device is done with it
PERCENTILES = {
    50: 1,
    95: 20,
    99: 1000,
}  # each with the calls that it takes to say anything about it


@dataclass(frozen=True)
class Ratio:
    """How many times faster one arm is than another, with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def differs(self) -> bool:
        """Whether the interval leaves out 1: only then may one be called faster."""
        return not self.low <= 1 <= self.high

    def row(self) -> dict[str, float | str]:
        """As results hold it."""
        return {
            "faster": self.value,
            "faster_low": self.low,
            "faster_high": self.high,
            "told": self.told(),
        }

    def told(self) -> str:
        return (
            f"{self.value:.2f}x ({self.low:.2f} to {self.high:.2f})"
            if self.differs
            else "no difference"
        )


def timer(device: torch.device) -> Timer:
    """How a call is timed: by CUDA's events on a GPU, which the device itself stamps, else by the system's clock."""
    return _by_events if device.type == "cuda" else by_clock(time.perf_counter)


def by_clock(now: Callable[[], float]) -> Timer:
    def timed(call: Runnable) -> float:
        start = now()
        call()
        return now() - start

    return timed


def _by_events(call: Runnable) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def time_interleaved(
    arms: Mapping[str, Runnable], timed: Timer, *, rounds: int, round_s: float, warm_up_s: float
) -> dict[str, np.ndarray]:
    """Seconds of every call, float64 [rounds, calls] by arm.

    After a warm-up of every arm for `warm_up_s`, all are called in turn, for about `round_s` each, `rounds` times: in
    every second round in reverse order, so that a drift of the machine's speed favours none.
    """
    counts = {
        name: max(1, round(round_s / _warm_up(call, timed, warm_up_s)))
        for name, call in arms.items()
    }
    seconds = {name: np.empty((rounds, count)) for name, count in counts.items()}
    for index in range(rounds):
        for name in list(arms)[:: 1 if index % 2 == 0 else -1]:
            seconds[name][index] = [timed(arms[name]) for _ in range(counts[name])]
    return seconds


def _warm_up(call: Runnable, timed: Timer, seconds: float) -> float:
    """Call for so many seconds, at least three times; returns the shortest call."""
    calls, spent, shortest = 0, 0.0, math.inf
    while calls < 3 or spent < seconds:
        taken = timed(call)
        calls, spent, shortest = calls + 1, spent + taken, min(shortest, taken)
    return max(shortest, 1e-9)


def ratio(slow: np.ndarray, fast: np.ndarray) -> Ratio:
    """How many times faster `fast` is than `slow`, both [rounds, calls] out of `take_turns`.

    The median of a round's calls stands for the round; the logarithms of the rounds' ratios, which are paired, have a
    mean and Student's interval. At least two rounds are needed.
    """
    logs = np.log(np.median(slow, axis=1) / np.median(fast, axis=1))
    half = half_width(logs[:, np.newaxis], resamples=0)
    value, low, high = np.exp([logs.mean(), logs.mean() - half, logs.mean() + half])
    return Ratio(float(value), float(low), float(high))


def summary(seconds: np.ndarray, batch_size: int) -> dict[str, float]:
    """Latency in milliseconds by percentile (the 99th of 1000 calls and more), and inputs per second at the median."""
    told = {
        f"latency_ms_p{which}": 1000 * float(np.percentile(seconds, which))
        for which, calls in PERCENTILES.items()
        if seconds.size >= calls
    }
    return told | {
        "throughput_per_s": batch_size / float(np.median(seconds)),
        "calls": seconds.size,
    }


def quantiles(seconds: np.ndarray) -> list[float]:
    """The distribution of the calls in milliseconds: the shortest, every twentieth part, the longest."""
    return (1000 * np.quantile(seconds, np.linspace(0, 1, QUANTILES))).tolist()
