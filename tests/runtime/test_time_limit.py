"""A limit of time: when work ends, and that it is as before afterwards."""

import signal
import sys
import time

import pytest
import torch

from prunelab.runtime import seeds
from prunelab.runtime import time_limit as module
from prunelab.runtime.seeds import for_each_seed
from prunelab.runtime.streams import in_threads
from prunelab.runtime.time_limit import OutOfTimeError, epoch_ended, time_limit


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless it is moved."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(module.time, "monotonic", lambda: Clock.now)
    return Clock


def test_without_a_limit_epochs_go_on(clock):
    with time_limit(None):
        clock.now += 10_000
        epoch_ended()


def test_another_epoch_begins_only_if_it_fits(clock):
    with time_limit(clock.now + 60):
        clock.now += 19
        epoch_ended()
        clock.now += 19
        epoch_ended()
        clock.now += 19
        with pytest.raises(OutOfTimeError):
            epoch_ended()


def test_a_slow_first_epoch_ends_the_work(clock):
    with time_limit(clock.now + 60):
        clock.now += 40
        with pytest.raises(OutOfTimeError):
            epoch_ended()


def test_nothing_begins_after_the_limit(clock):
    with pytest.raises(OutOfTimeError), time_limit(clock.now):
        pytest.fail("it began")


def test_work_without_epochs_is_interrupted_at_the_limit():
    handler = signal.getsignal(signal.SIGALRM)

    with pytest.raises(OutOfTimeError), time_limit(time.monotonic() + 0.05):
        time.sleep(60)

    assert signal.getsignal(signal.SIGALRM) is handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_what_handles_failures_lets_the_end_of_time_pass(clock):
    with pytest.raises(OutOfTimeError), time_limit(clock.now + 1):
        try:
            clock.now += 1
            epoch_ended()
        except Exception:
            pytest.fail("it was taken for a failure")


@pytest.mark.skipif(sys.platform != "linux", reason="seeds run side by side on Linux")
def test_a_seed_whose_process_starts_late_is_measured_by_its_own_epochs(
    clock, execution, monkeypatch, tmp_path
):
    monkeypatch.setattr(seeds, "available_cores", lambda: [0, 1])
    torch.set_num_threads(1)
    first_is_over = tmp_path / "first is over"

    def train(seed: int) -> int:
        while seed == 1 and not first_is_over.exists():
            time.sleep(0.01)
        clock.now += 5
        epoch_ended()
        return seed

    with time_limit(clock.now + 60):
        results = for_each_seed([0, 1, 2], train, execution)
        first = next(results)
        clock.now += 40  # so long have the first two taken when the third begins
        first_is_over.touch()

        assert [first, *results] == [0, 1, 2]


def test_a_seed_that_runs_again_in_a_thread_is_measured_by_its_own_epochs(clock):
    failed = []

    def train(seed: int) -> int:
        if seed == 1 and not failed:
            failed.append(seed)
            raise torch.cuda.OutOfMemoryError
        clock.now += 40 if seed == 0 else 5
        if seed == 1:
            epoch_ended()
        return seed

    with time_limit(clock.now + 60):
        assert list(in_threads([0, 1], train, torch.device("cpu"))) == [0, 1]
