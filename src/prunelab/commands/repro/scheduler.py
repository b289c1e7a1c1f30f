"""Which tasks may start now: an order over any graph of tasks. Nothing of DVC, of processes or of clocks."""

from collections.abc import Collection, Mapping
from graphlib import TopologicalSorter


def chains(needs: Mapping[str, Collection[str]]) -> dict[str, int]:
    """For every task, how many tasks the longest chain has that begins with it."""
    lengths = dict.fromkeys(needs, 1)
    for name in reversed(list(TopologicalSorter(needs).static_order())):
        for needed in needs[name]:
            lengths[needed] = max(lengths[needed], lengths[name] + 1)
    return lengths


class Schedule:
    """Tasks, each startable as soon as all it needs is done, at most `jobs` at a time, longest chains first.

    A task of `alone` starts when nothing runs and nothing else can start, and nothing starts beside it. Equals start
    in the order of `needs`, which holds every task and for each the tasks it needs directly.
    """

    def __init__(
        self, needs: Mapping[str, Collection[str]], jobs: int, alone: Collection[str] = ()
    ):
        self.running: set[str] = set()
        self._jobs, self._alone = jobs, frozenset(alone)
        self._missing = {
            name: set(needed) for name, needed in needs.items()
        }  # of the tasks that wait
        self._chains = chains(needs)

    @property
    def over(self) -> bool:
        return not self.running and not self._missing

    def begin(self) -> list[str]:
        """The tasks to start now; they count as running from here on."""
        started = []
        while (name := self._next()) is not None:
            del self._missing[name]
            self.running.add(name)
            started.append(name)
        return started

    def _next(self) -> str | None:
        if len(self.running) >= self._jobs or self.running & self._alone:
            return None
        ready = [name for name, missing in self._missing.items() if not missing]
        together = [name for name in ready if name not in self._alone]
        allowed = together or ([] if self.running else ready)
        return max(allowed, key=self._chains.__getitem__, default=None)

    def done(self, name: str) -> None:
        self.running.remove(name)
        for missing in self._missing.values():
            missing.discard(name)

    def failed(self, name: str) -> list[str]:
        """Give up a task and return what can no longer run because of it."""
        self.running.remove(name)
        lost, skipped = {name}, []
        while found := [task for task, missing in self._missing.items() if missing & lost]:
            for task in found:
                del self._missing[task]
            lost |= set(found)
            skipped += found
        return skipped
