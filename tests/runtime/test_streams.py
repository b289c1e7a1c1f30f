"""Threads that compute side by side: results in order, errors, and memory that runs out."""

import threading
import time

import pytest
import torch

from prunelab.runtime.streams import (
    StoppedError,
    in_threads,
    one_at_a_time,
    shares_generators,
    side_by_side,
    stop_if_asked,
)

CPU = torch.device("cpu")


def test_results_come_in_the_order_of_the_items_and_all_run_side_by_side():
    together = threading.Barrier(3, timeout=10)

    def work(item: int) -> tuple[int, bool]:
        with side_by_side():
            together.wait()
            return item, shares_generators()

    assert list(in_threads([5, 3, 4], work, CPU)) == [(5, True), (3, True), (4, True)]
    assert not shares_generators()


def test_one_thread_runs_at_a_time_except_side_by_side():
    running = []
    together = threading.Barrier(3, timeout=10)

    def run_alone(item: int) -> None:
        assert not shares_generators()
        running.append(item)
        time.sleep(0.01)
        assert running == [item]
        running.remove(item)

    def work(item: int) -> None:
        run_alone(item)
        with side_by_side():
            together.wait()
            with one_at_a_time():
                run_alone(item)
                with one_at_a_time(), side_by_side():
                    together.wait()
                run_alone(item)
        run_alone(item)

    assert list(in_threads([0, 1, 2], work, CPU)) == [None, None, None]


def test_alone_there_is_nobody_to_wait_for():
    with side_by_side(), one_at_a_time():
        assert not shares_generators()


def test_threads_that_never_had_their_turn_do_not_start_after_an_error():
    started = []

    def work(item: int) -> None:
        started.append(item)
        time.sleep(0.1)
        raise ValueError("the first")

    with pytest.raises(ValueError, match="the first"):
        list(in_threads([0, 1, 2], work, CPU))
    assert len(started) == 1


def test_an_error_is_raised_once_the_other_threads_have_stopped():
    stopped = []
    together = threading.Barrier(3, timeout=10)

    def work(item: int) -> None:
        with side_by_side():
            together.wait()
        if item == 1:
            raise ValueError("of item 1")
        try:
            with side_by_side():
                while True:
                    stop_if_asked()
        except StoppedError:
            stopped.append(item)
            raise

    with pytest.raises(ValueError, match="of item 1"):
        list(in_threads([0, 1, 2], work, CPU))
    assert sorted(stopped) == [0, 2]


def test_items_without_enough_memory_run_again_alone(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    running, tries = [], []
    together = threading.Barrier(3, timeout=10)

    def work(item: int) -> int:
        first_time = item not in tries
        tries.append(item)
        running.append(item)
        try:
            if first_time:
                with side_by_side():
                    together.wait()
                if item != 0:
                    raise torch.cuda.OutOfMemoryError
            else:
                assert running == [item]
            return item * item
        finally:
            running.remove(item)

    assert list(in_threads([0, 1, 2], work, CPU)) == [0, 1, 4]
    assert sorted(tries) == [0, 1, 1, 2, 2]
    assert capsys.readouterr().out.count("too little memory beside the other seeds") == 2


def test_an_item_that_needs_more_memory_than_there_is_fails(monkeypatch):
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    together = threading.Barrier(2, timeout=10)
    tries = []

    def work(item: int) -> None:
        tries.append(item)
        if len(tries) <= 2:
            with side_by_side():
                together.wait()
        raise torch.cuda.OutOfMemoryError

    with pytest.raises(torch.cuda.OutOfMemoryError):
        list(in_threads([0, 1], work, CPU))
