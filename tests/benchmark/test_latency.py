"""Measured latency on a clock of our own making, so that no test depends on the machine."""

import math

import numpy as np
import pytest
import torch
from helpers.networks import DIGITS_SHAPE

from prunelab.benchmark.backends import eager
from prunelab.benchmark.latency import by_clock, ratio, summary, time_interleaved, timer
from prunelab.models.catalogue import build


class Machine:
    """Time passes only when something is called; `pace(calls)` is how slow the machine is by then."""

    def __init__(self, pace=lambda calls: 1.0):
        self.time, self.calls, self.order, self._pace = 0.0, 0, [], pace

    def now(self) -> float:
        return self.time

    def arm(self, name: str, seconds):
        def call() -> None:
            self.time += (seconds() if callable(seconds) else seconds) * self._pace(self.calls)
            self.calls += 1
            self.order.append(name)

        return call


def measured(machine: Machine, slow, fast, rounds: int = 10):
    arms = {"slow": machine.arm("slow", slow), "fast": machine.arm("fast", fast)}
    return time_interleaved(arms, by_clock(machine.now), rounds=rounds, round_s=0.2, warm_up_s=0.1)


def test_every_call_is_timed_and_rounds_are_about_as_long_for_all():
    seconds = measured(Machine(), 0.02, 0.01)
    assert seconds["slow"].shape == (10, 10)
    assert seconds["fast"].shape == (10, 20)
    assert seconds["slow"] == pytest.approx(0.02)


def test_arms_take_turns_and_the_first_changes():
    machine = Machine()
    measured(machine, 0.2, 0.2, rounds=4)
    assert machine.order[-8:] == ["slow", "fast", "fast", "slow", "slow", "fast", "fast", "slow"]


def test_the_ratio_is_exact_where_nothing_disturbs():
    found = ratio(*measured(Machine(), 0.03, 0.01).values())
    assert (found.value, found.low, found.high) == pytest.approx((3, 3, 3))
    assert found.differs


def test_a_machine_that_slows_down_changes_no_ratio():
    drifting = Machine(pace=lambda calls: 1 + calls / 500)
    found = ratio(*measured(drifting, 0.02, 0.01).values())
    assert found.low < 2 < found.high
    assert found.value == pytest.approx(2, rel=0.02)


def test_noise_is_no_difference_and_says_so():
    random = np.random.default_rng(0)
    noisy = lambda: 0.01 * math.exp(random.normal(0, 0.2))  # noqa: E731
    found = ratio(*measured(Machine(), noisy, noisy).values())
    assert found.low < 1 < found.high
    assert found.told() == "no difference"


def test_a_difference_is_found_in_noise():
    random = np.random.default_rng(1)
    noisy = lambda mean: lambda: mean * math.exp(random.normal(0, 0.2))  # noqa: E731
    found = ratio(*measured(Machine(), noisy(0.013), noisy(0.01)).values())
    assert found.low > 1
    assert found.told().startswith("1.")


def test_the_interval_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(2)
    hits = 0
    for _ in range(400):
        slow, fast = (random.normal(np.log(mean), 0.1, (8, 1)) for mean in (0.012, 0.01))
        found = ratio(np.exp(slow), np.exp(fast))
        hits += found.low <= 1.2 <= found.high
    assert hits / 400 == pytest.approx(0.95, abs=0.035)


def test_percentiles_and_throughput_are_of_all_calls():
    seconds = np.arange(1, 101).reshape(4, 25) / 1000
    told = summary(seconds, batch_size=8)
    assert told["latency_ms_p50"] == pytest.approx(50.5)
    assert told["latency_ms_p95"] == pytest.approx(95.05)
    assert told["throughput_per_s"] == pytest.approx(8 / 0.0505)
    assert told["calls"] == 100
    assert "latency_ms_p99" not in told  # which one call in a hundred says nothing about
    assert "latency_ms_p99" in summary(np.ones((10, 100)), batch_size=1)


def test_a_network_is_an_arm_and_time_passes(execution):
    model = build("resnet8", 10, DIGITS_SHAPE).eval()
    call = eager(model, torch.zeros(2, *DIGITS_SHAPE), execution)
    assert call().shape == (2, 10)
    seconds = time_interleaved(
        {"net": call}, timer(torch.device("cpu")), rounds=2, round_s=0.01, warm_up_s=0.01
    )
    assert (seconds["net"] > 0).all()
