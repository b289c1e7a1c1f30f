"""A time at which training ends, with nothing lost: after an epoch, when the next would not fit.

Nothing here knows of experiments or stages. Without a limit nothing happens.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_NEXT_EPOCH = 1.05  # the next epoch may take so many times as long as the last
_limit: float | None = None  # by time.monotonic
_last_epoch: dict[int, float] = {}  # when an epoch ended or work began, by thread; 0: work began
_WORK_BEGAN = 0


class OutOfTimeError(BaseException):
    """The time is over. It is no Exception, so that what handles failures lets it pass."""


@contextmanager
def time_limit(moment: float | None) -> Iterator[None]:
    """End what runs within at `moment`, by time.monotonic; None: never.

    Raises:
        OutOfTimeError: after the checkpoint of an epoch if another one is not expected to end in
            time; at `moment` in any case, as Ctrl-C would end it. The latter holds in the main
            thread alone, which is where signals arrive.
    """
    global _limit
    if moment is None:
        yield
        return

    seconds = moment - time.monotonic()
    if seconds <= 0:
        raise OutOfTimeError
    may_signal = threading.current_thread() is threading.main_thread()
    if may_signal:
        handler = signal.signal(signal.SIGALRM, _on_alarm)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    _limit = moment
    work_begins()
    try:
        yield
    finally:
        _limit = None
        if may_signal:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, handler)


def work_begins() -> None:
    """Note that the first epoch of a training begins soon, in this thread or in one of its own."""
    _last_epoch.clear()
    _last_epoch[_WORK_BEGAN] = time.monotonic()


def seed_begins() -> None:
    """Note that this thread begins to train now: what ran before it took none of its epochs."""
    _last_epoch[threading.get_ident()] = time.monotonic()


def epoch_ended() -> None:
    """Go on, or end: a training calls this once an epoch is on disk.

    Raises:
        OutOfTimeError: if another epoch, as long as this one, would not end in time.
    """
    if _limit is None:
        return

    now, thread = time.monotonic(), threading.get_ident()
    before = _last_epoch.get(thread, _last_epoch[_WORK_BEGAN])
    _last_epoch[thread] = now
    if now + _NEXT_EPOCH * (now - before) > _limit:
        raise OutOfTimeError


def _on_alarm(number: int, frame: FrameType | None) -> None:
    raise OutOfTimeError
