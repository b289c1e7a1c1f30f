"""Progress bars on the terminal; a child process sends its bar to the parent, which draws it.

One process alone writes to a terminal, so that no line is torn.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from tqdm import tqdm

SEND_INTERVAL_S = 0.2


class Bar(Protocol):
    """What shows the progress of one work; tqdm's bars fit."""

    def update(self, n: int = 1) -> object: ...

    def set_postfix_str(self, s: str) -> object: ...

    def close(self) -> object: ...


@dataclass(frozen=True)
class BarState:
    """All that a bar shows, as it travels from one process to another."""

    label: str
    unit: str
    total: int
    first: int
    done: int
    note: str
    closed: bool = False


# In a child process: hands the state of its bar to the parent.
_send: Callable[[BarState], None] | None = None


def send_bars_to(send: Callable[[BarState], None]) -> None:
    """From now on, let this process send its bars instead of drawing them."""
    global _send
    _send = send


def open_bar(
    label: str, *, total: int, first: int = 0, unit: str = "step", shown: bool = True
) -> Bar:
    """A bar that has done `first` of `total`; it appears on a terminal, and only if `shown`."""
    state = BarState(label, unit, total, first, first, note="")
    visible = shown and on_terminal()
    if visible and _send is not None:
        return _SentBar(state, _send)
    bar: Bar = _drawn(state, visible=visible)
    return bar


def on_terminal() -> bool:
    """Whether bars appear at all."""
    return sys.stderr.isatty()


def _drawn(state: BarState, *, visible: bool) -> "tqdm[Any]":
    return tqdm(
        total=state.total,
        initial=state.first,
        desc=state.label,
        unit=state.unit,
        disable=not visible,
        leave=False,
    )


class _SentBar:
    """A bar that another process draws."""

    def __init__(self, state: BarState, send: Callable[[BarState], None]) -> None:
        self._state = state
        self._send = send
        self._done = state.first
        self._note = ""
        self._sent_at = 0.0
        self._send_state()

    def update(self, n: int = 1) -> None:
        self._done += n
        if time.monotonic() - self._sent_at > SEND_INTERVAL_S:
            self._send_state()

    def set_postfix_str(self, s: str) -> None:
        self._note = s
        self._send_state()

    def close(self) -> None:
        self._send_state(closed=True)

    def _send_state(self, *, closed: bool = False) -> None:
        self._sent_at = time.monotonic()
        self._send(replace(self._state, done=self._done, note=self._note, closed=closed))


class Screen:
    """Draws the bars of several child processes below each other, and lines above them."""

    def __init__(self) -> None:
        self._bars: dict[int, tqdm[Any]] = {}

    def draw(self, owner: int, state: BarState) -> None:
        """Show a state of the bar of one child; it has one bar at a time."""
        if state.closed:
            self.remove(owner)
            return

        bar = self._bars.get(owner)
        if bar is None:
            bar = _drawn(state, visible=True)
            self._bars[owner] = bar
        bar.set_postfix_str(state.note, refresh=False)
        bar.update(state.done - bar.n)
        bar.refresh()

    def print(self, line: str) -> None:
        """Print a line to standard output, above the bars."""
        tqdm.write(line, file=sys.stdout)

    def remove(self, owner: int) -> None:
        """Take the bar of a child away, if it has one."""
        bar = self._bars.pop(owner, None)
        if bar is not None:
            bar.close()
            bar.fp.write("\r")  # the bar of a lower line leaves the cursor at its end

    def clear(self) -> None:
        """Make room for lines that others print; the bars come back when they change."""
        for bar in self._bars.values():
            bar.clear()

    def close(self) -> None:
        for owner in list(self._bars):
            self.remove(owner)
