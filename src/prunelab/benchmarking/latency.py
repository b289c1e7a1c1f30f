"""Latency: networks take turns in one process, so that a slow machine slows all of them alike."""

import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from prunelab.artifacts.records import QUANTILES
from prunelab.benchmarking.backends import Runnable
from prunelab.statistics.intervals import trimmed_mean
from prunelab.statistics.speed_ratios import shown_faster, shown_slower

Timer = Callable[[Runnable], float]  # seconds of one call, until the device is done with it

# The percentiles, each with the number of calls from which on it is meaningful.
MIN_CALLS = {50: 1, 95: 20, 99: 1000}
MIN_WARM_UP_CALLS = 3

MAX_SPREAD = 2.0  # of a program whose calls are steady: its median call divided by its fastest
MAX_WIDTH = 1.5  # of an interval that says something: its upper end divided by its lower


@dataclass(frozen=True)
class Speedup:
    """How many times faster one network is than another, with a 95 % interval.

    1 is the same speed, less than 1 is slower.
    """

    value: float
    low: float
    high: float

    @property
    def differs(self) -> bool:
        """Whether one of the two is faster: the interval is not within what cannot be resolved."""
        return shown_faster(self.low) or shown_slower(self.high)

    def row(self, doubt: str | None = None) -> dict[str, float | str]:
        """The columns of a row of metrics/speed/benchmark.json.

        With a `doubt`, that reason stands in place of the ratio in words.
        """
        in_words = self.describe()
        if doubt:
            in_words = f"no ratio, because {doubt}"

        return {
            "faster": self.value,
            "faster_low": self.low,
            "faster_high": self.high,
            "told": in_words,
        }

    def describe(self) -> str:
        """The value and its interval, or that there is no difference."""
        if not self.differs:
            return "no difference"
        return f"{self.value:.2f}x ({self.low:.2f} to {self.high:.2f})"


def timer(device: torch.device) -> Timer:
    """What times a call: CUDA's events on a GPU, which the GPU itself stamps, else a clock."""
    return _by_events if device.type == "cuda" else by_clock(time.perf_counter)


def by_clock(now: Callable[[], float]) -> Timer:
    """A timer that reads a clock; `now` returns seconds."""

    def timed(call: Runnable) -> float:
        start = now()
        call()
        return now() - start

    return timed


def _by_events(call: Runnable) -> float:
    start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000


def time_interleaved(
    runnables: Mapping[str, Runnable],
    timer: Timer,
    *,
    rounds: int,
    round_s: float,
    warm_up_s: float,
) -> dict[str, np.ndarray]:
    """Time several runnables in turn; returns the seconds of every call, float64 [rounds, calls].

    Every runnable first warms up for `warm_up_s`. Then each of the `rounds` calls all of them, each
    for about `round_s`, in a random order. The first call of a turn is not timed, because how long
    it takes depends on whose turn was before. An order that is only reversed would favour the first
    and the last runnable by some per cent, as these would follow themselves.
    """
    calls = {}
    for name, call in runnables.items():
        shortest = _warm_up(call, timer, warm_up_s)
        calls[name] = max(1, round(round_s / shortest) - 1)

    seconds = {name: np.empty((rounds, count)) for name, count in calls.items()}
    order = list(runnables)
    chance = random.Random(0)  # noqa: S311 (no secret)
    for index in range(rounds):
        chance.shuffle(order)
        for name in order:
            timer(runnables[name])
            seconds[name][index] = [timer(runnables[name]) for _ in range(calls[name])]

    return seconds


def _warm_up(call: Runnable, timer: Timer, seconds: float) -> float:
    """Call for so many seconds, at least three times. Returns the seconds of the shortest call."""
    calls, elapsed, shortest = 0, 0.0, math.inf

    while calls < MIN_WARM_UP_CALLS or elapsed < seconds:
        duration = timer(call)
        calls += 1
        elapsed += duration
        shortest = min(shortest, duration)

    return max(shortest, 1e-9)


def speedup_of(slow: np.ndarray, fast: np.ndarray) -> Speedup:
    """How many times faster `fast` is than `slow`, both [rounds, calls] of `time_interleaved`.

    The median of its calls stands for a round. Rounds are paired: the logarithms of their ratios
    have a trimmed mean and its interval, because other work on the machine now and then slows one
    of the two alone. There must be at least two rounds.
    """
    logs = np.log(np.median(slow, axis=1) / np.median(fast, axis=1))
    mean, half = trimmed_mean(logs)

    value, low, high = np.exp([mean, mean - half, mean + half])
    return Speedup(float(value), float(low), float(high))


def doubt(seconds: Mapping[str, np.ndarray], speedup: Speedup) -> str | None:
    """Why the calls of two runnables support no ratio; None if they do.

    On a busy machine one of the two may wait for other work far longer than its rival, in every
    round. The interval over the rounds does not show that, but the calls themselves do.

    Args:
        seconds: the calls of both, [rounds, calls], by name.
        speedup: what `speedup_of` makes of them.
    """
    for name, calls in seconds.items():
        spread = float(np.median(calls) / calls.min())
        if spread > MAX_SPREAD:
            return f"the median call of {name} took {spread:.1f} times as long as its fastest"

    if speedup.high > MAX_WIDTH * speedup.low:
        interval = f"{speedup.low:.2f} to {speedup.high:.2f}"
        return f"its interval is {interval}, which more rounds may narrow"
    return None


def summary(seconds: np.ndarray, batch_size: int) -> dict[str, float]:
    """Latency in milliseconds by percentile, and inputs per second at the median.

    A percentile is left out if there are too few calls for it (`MIN_CALLS`).
    """
    row: dict[str, float] = {}
    for percentile, min_calls in MIN_CALLS.items():
        if seconds.size >= min_calls:
            row[f"latency_ms_p{percentile}"] = 1000 * float(np.percentile(seconds, percentile))

    row["throughput_per_s"] = batch_size / float(np.median(seconds))
    row["calls"] = seconds.size
    return row


def quantiles(seconds: np.ndarray) -> list[float]:
    """The distribution of the calls in milliseconds: `QUANTILES` values, shortest to longest."""
    milliseconds = 1000 * np.quantile(seconds, np.linspace(0, 1, QUANTILES))
    return [float(quantile) for quantile in milliseconds]
