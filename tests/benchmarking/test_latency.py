"""Latency on a made-up clock, so that no test depends on the speed of the machine."""

import math
from collections import Counter
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from helpers.networks import DIGITS_SHAPE

from prunelab.benchmarking.backends import eager
from prunelab.benchmarking.latency import (
    Speedup,
    by_clock,
    doubt,
    speedup_of,
    summary,
    time_interleaved,
    timer,
)
from prunelab.models.networks import build


class Machine:
    """Time passes only in calls. `slowness` is a factor by the number of calls so far."""

    def __init__(self, slowness=lambda calls: 1.0):
        self.time, self.calls, self.order = 0.0, 0, []
        self._slowness = slowness

    def now(self) -> float:
        return self.time

    def runnable(self, name: str, draw_seconds):
        def call() -> None:
            self.time += draw_seconds() * self._slowness(self.calls)
            self.calls += 1
            self.order.append(name)

        return call


def constant(seconds: float):
    return lambda: seconds


def noisy(seconds: float, rng: np.random.Generator):
    return lambda: seconds * math.exp(rng.normal(0, 0.2))


def measure(machine: Machine, slow, fast, rounds: int = 10):
    """Time two runnables, whose seconds `slow` and `fast` draw."""
    return time_interleaved(
        {"slow": machine.runnable("slow", slow), "fast": machine.runnable("fast", fast)},
        by_clock(machine.now),
        rounds=rounds,
        round_s=0.2,
        warm_up_s=0.1,
    )


def test_all_calls_of_a_turn_but_the_first_are_timed_and_turns_take_equally_long():
    seconds = measure(Machine(), constant(0.02), constant(0.01))

    assert seconds["slow"].shape == (10, 9)  # and one more, which is not timed
    assert seconds["fast"].shape == (10, 19)
    assert seconds["slow"] == pytest.approx(0.02)


def test_all_runnables_have_a_turn_in_every_round_and_follow_each_other_equally_often():
    machine = Machine()
    names = ["a", "b", "c", "d"]
    runnables = {name: machine.runnable(name, constant(0.1)) for name in names}
    time_interleaved(
        runnables, by_clock(machine.now), rounds=2000, round_s=0.2, warm_up_s=0.1
    )  # two calls a turn: one that is timed, and one before it that is not

    turns = machine.order[-2 * 2000 * len(names) :]
    assert turns[::2] == turns[1::2]
    rounds = [turns[start : start + 8 : 2] for start in range(0, len(turns), 8)]
    assert all(sorted(each) == names for each in rounds)

    followers = Counter(pairwise(turns[::2]))
    for first, second in product(names, names):
        share = 1 / 16 if first == second else 1 / 4 + 1 / 16
        assert followers[first, second] == pytest.approx(2000 * share, rel=0.25)


def test_equal_runnables_are_equally_fast_where_following_oneself_is_fast():
    machine = Machine()
    last = []

    def runnable(name: str):
        def call() -> None:
            machine.time += 0.05 if last == [name] else 0.1
            last[:] = [name]

        return call

    seconds = time_interleaved(
        {name: runnable(name) for name in "abcd"},
        by_clock(machine.now),
        **{"rounds": 20, "round_s": 0.1, "warm_up_s": 0.1},
    )

    for name in "bcd":
        speedup = speedup_of(seconds["a"], seconds[name])
        assert (speedup.low, speedup.high) == pytest.approx((1, 1))


def test_speedup_is_exact_without_noise():
    speedup = speedup_of(*measure(Machine(), constant(0.03), constant(0.01)).values())

    assert (speedup.value, speedup.low, speedup.high) == pytest.approx((3, 3, 3))
    assert speedup.differs


def test_machine_that_slows_down_does_not_change_the_speedup():
    machine = Machine(slowness=lambda calls: 1 + calls / 500)

    speedup = speedup_of(*measure(machine, constant(0.02), constant(0.01)).values())

    assert speedup.low < 2 < speedup.high
    assert speedup.value == pytest.approx(2, rel=0.02)


def test_noise_alone_is_no_difference():
    rng = np.random.default_rng(0)

    speedup = speedup_of(*measure(Machine(), noisy(0.01, rng), noisy(0.01, rng)).values())

    assert speedup.low < 1 < speedup.high
    assert speedup.describe() == "no difference"


def test_difference_is_found_in_noise():
    rng = np.random.default_rng(1)

    speedup = speedup_of(*measure(Machine(), noisy(0.013, rng), noisy(0.01, rng)).values())

    assert speedup.low > 1
    assert speedup.describe().startswith("1.")


def test_interval_covers_the_true_speedup_19_times_in_20():
    rng = np.random.default_rng(2)
    covered = 0

    for _ in range(400):
        slow, fast = (rng.normal(np.log(mean), 0.1, (8, 1)) for mean in (0.012, 0.01))
        speedup = speedup_of(np.exp(slow), np.exp(fast))
        covered += speedup.low <= 1.2 <= speedup.high

    assert covered / 400 == pytest.approx(0.95, abs=0.035)


def test_rounds_that_other_work_disturbed_change_neither_speedup_nor_interval_much():
    rng = np.random.default_rng(3)
    slow, fast = (np.exp(rng.normal(np.log(mean), 0.05, (30, 1))) for mean in (0.02, 0.01))
    quiet = speedup_of(slow, fast)

    slow[4:7] *= 8
    fast[20:23] *= 8
    disturbed = speedup_of(slow, fast)

    assert disturbed.value == pytest.approx(quiet.value, rel=0.02)
    assert disturbed.high / disturbed.low < (quiet.high / quiet.low) ** 2
    assert disturbed.low < 2 < disturbed.high


STEADY = np.full((8, 4), 0.01)
# Most calls of one of the two wait for other work, in all rounds alike.
STARVED = STEADY * np.array([1, 3, 3, 3])
UNCERTAIN = STEADY * np.exp(np.linspace(-0.5, 0.5, 8))[:, None]


@pytest.mark.parametrize(
    ("fast", "reason"),
    [
        (STEADY / 2, None),
        (STARVED, "the median call of b took 3.0 times as long as its fastest"),
        (UNCERTAIN, "its interval is"),
    ],
    ids=["steady", "starved", "uncertain"],
)
def test_calls_that_support_no_ratio_are_told_from_those_that_do(fast, reason):
    speedup = speedup_of(STEADY, fast)
    found = doubt({"a": STEADY, "b": fast}, speedup)

    assert (found or "").startswith(reason or "")
    assert bool(found) == bool(reason)
    assert ("x (" in str(speedup.row(found)["told"])) == (reason is None)


def test_percentiles_and_throughput_are_of_all_calls():
    seconds = np.arange(1, 101).reshape(4, 25) / 1000

    row = summary(seconds, batch_size=8)

    assert row["latency_ms_p50"] == pytest.approx(50.5)
    assert row["latency_ms_p95"] == pytest.approx(95.05)
    assert row["throughput_per_s"] == pytest.approx(8 / 0.0505)
    assert row["calls"] == 100


def test_99th_percentile_needs_a_thousand_calls():
    assert "latency_ms_p99" not in summary(np.ones((10, 99)), batch_size=1)
    assert "latency_ms_p99" in summary(np.ones((10, 100)), batch_size=1)


def test_network_is_timed_by_the_clock_of_the_machine(execution):
    model = build("resnet8", 10, DIGITS_SHAPE).eval()
    call = eager(model, torch.zeros(2, *DIGITS_SHAPE), execution)

    seconds = time_interleaved(
        {"network": call}, timer(torch.device("cpu")), rounds=2, round_s=0.01, warm_up_s=0.01
    )

    assert call().shape == (2, 10)
    assert (seconds["network"] > 0).all()


@pytest.mark.parametrize(
    ("low", "high", "differs"),
    [
        (1.02, 1.03, True),
        (1.003, 1.008, False),  # an idle machine resolves less than its intervals are wide
        (0.98, 1.02, False),
        (1.005, 1.4, False),
    ],
)
def test_a_difference_must_be_larger_than_equal_networks_show(low, high, differs):
    faster = Speedup(low, low, high)
    slower = Speedup(1 / low, 1 / high, 1 / low)

    assert faster.differs == slower.differs == differs
    assert (faster.describe() == "no difference") is not differs
