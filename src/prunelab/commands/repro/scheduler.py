"""Which tasks of a graph may start now. This module knows nothing of DVC, processes or clocks."""

from collections.abc import Collection, Mapping
from graphlib import TopologicalSorter


def chain_lengths(needs: Mapping[str, Collection[str]]) -> dict[str, int]:
    """Return for every task the number of tasks in the longest chain that begins with it."""
    lengths = dict.fromkeys(needs, 1)
    for name in reversed(list(TopologicalSorter(needs).static_order())):
        for needed in needs[name]:
            lengths[needed] = max(lengths[needed], lengths[name] + 1)
    return lengths


class TaskGraph:
    """Tasks that start once all tasks they need are done, at most `jobs` at a time.

    `needs` holds every task, and for each the tasks that it needs directly. Of the tasks that may
    start, the one with the longest chain of tasks behind it goes first, then the first in `needs`.
    A task of `alone` starts when nothing runs and nothing else may start. Nothing starts beside it.
    """

    def __init__(
        self, needs: Mapping[str, Collection[str]], jobs: int, alone: Collection[str] = ()
    ) -> None:
        self.running: set[str] = set()
        self._jobs = jobs
        self._alone = frozenset(alone)
        self._chain_lengths = chain_lengths(needs)
        # For every waiting task, the tasks that it needs and that are not done.
        self._missing = {name: set(needed) for name, needed in needs.items()}

    @property
    def finished(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not self.running and not self._missing

    def start_ready(self) -> list[str]:
        """Return the tasks to start now. They count as running from here on."""
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
        candidates = [name for name in ready if name not in self._alone]
        if not candidates and not self.running:
            candidates = ready
        return max(candidates, key=self._chain_lengths.__getitem__, default=None)

    def mark_done(self, name: str) -> None:
        """Note that a running task has succeeded."""
        self.running.remove(name)
        for missing in self._missing.values():
            missing.discard(name)

    def mark_failed(self, name: str) -> list[str]:
        """Note that a running task has failed, and return the tasks that can no longer run."""
        self.running.remove(name)

        lost = {name}
        skipped: list[str] = []
        while True:
            newly_lost = [task for task, missing in self._missing.items() if missing & lost]
            if not newly_lost:
                return skipped

            for task in newly_lost:
                del self._missing[task]
            lost.update(newly_lost)
            skipped += newly_lost
