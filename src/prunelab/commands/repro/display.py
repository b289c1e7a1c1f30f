"""What a run shows: a line for every event, and on a terminal a status line below them."""

import sys
import time
from collections.abc import Iterable

from tqdm import tqdm

from prunelab.commands.repro.time_left import Durations, describe

MAX_NAMED = 3  # running stages that the status line names


class Display:
    """Prints lines about stages, which are numbered as they start.

    The status line shows how many stages are done, run and are left, and how long they will take.
    """

    def __init__(
        self, stages: Iterable[str], durations: Durations, jobs: int, alone: Iterable[str]
    ) -> None:
        self._waiting = dict.fromkeys(stages)  # a set that keeps the order
        self._durations = durations
        self._jobs = jobs
        self._alone = frozenset(alone)

        self._total = len(self._waiting)
        self._numbers: dict[str, str] = {}
        self._start_times: dict[str, float] = {}  # of the running stages

        self._bar = tqdm(
            total=self._total,
            unit="stage",
            leave=False,
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
            bar_format="{percentage:3.0f}%|{bar}| {desc}",
        )

    def print_line(self, line: str) -> None:
        """Print a line above the bar."""
        self._bar.clear()
        print(line, flush=True)
        self.refresh()

    def refresh(self) -> None:
        """Draw the status line again."""
        self._bar.set_description_str(self.status())

    def status(self) -> str:
        """The words of the status line."""
        running = self._running_seconds()
        done = self._total - len(running) - len(self._waiting)
        counts = (
            f"{done} done, {len(running)} running, {len(self._waiting)} waiting of {self._total}"
        )
        left = describe(self._durations.left(self._waiting, running, self._jobs, alone=self._alone))

        names = [f"{stage} {seconds:.0f} s" for stage, seconds in running.items()]
        if len(names) > MAX_NAMED:
            names = [*names[:MAX_NAMED], "..."]
        return "; ".join(filter(None, [counts, left, ", ".join(names)]))

    def _running_seconds(self) -> dict[str, float]:
        now = time.monotonic()
        return {stage: now - start for stage, start in self._start_times.items()}

    def started(self, stage: str, detail: str = "") -> None:
        """Report that a stage has started. `detail` is added to the line."""
        number = f"[{len(self._numbers) + 1}/{self._total}]"
        self._numbers[stage] = number
        self._start_times[stage] = time.monotonic()
        self._waiting.pop(stage, None)
        self.print_line(f"{number} {stage}: started{detail}")

    def ended(self, stage: str, result: str, detail: str = "") -> None:
        """Report that a stage has ended, with what result. `detail` is added to the line."""
        seconds = time.monotonic() - self._start_times.pop(stage)
        self._durations.add(stage, seconds)
        self._bar.update()
        self.print_line(f"{self._numbers[stage]} {stage}: {result} after {seconds:,.0f} s{detail}")

    def skipped(self, stages: list[str]) -> None:
        """Move the bar past stages that will not run."""
        for stage in stages:
            self._waiting.pop(stage, None)
        self._bar.update(len(stages))

    def close(self) -> None:
        self._bar.close()
