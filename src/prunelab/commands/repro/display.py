"""What a run shows: a line for every event, and on a terminal a progress bar below them."""

import sys
import time

from tqdm import tqdm


class Display:
    """Prints lines about stages, which are numbered as they start, up to `total`."""

    def __init__(self, total: int) -> None:
        self._total = total

        self._numbers: dict[str, str] = {}
        self._start_times: dict[str, float] = {}
        self._running: dict[str, None] = {}  # a set that keeps the order

        self._bar = tqdm(
            total=total,
            unit="stage",
            leave=False,
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
        )

    def print_line(self, line: str) -> None:
        """Print a line above the bar."""
        self._bar.clear()
        print(line, flush=True)
        self.refresh()

    def refresh(self) -> None:
        """Draw the bar again, with the names of the running stages."""
        self._bar.set_postfix_str(", ".join(self._running))

    def started(self, stage: str, detail: str = "") -> None:
        """Report that a stage has started. `detail` is added to the line."""
        number = f"[{len(self._numbers) + 1}/{self._total}]"
        self._numbers[stage] = number
        self._start_times[stage] = time.monotonic()
        self._running[stage] = None
        self.print_line(f"{number} {stage}: started{detail}")

    def ended(self, stage: str, result: str, detail: str = "") -> None:
        """Report that a stage has ended, with what result. `detail` is added to the line."""
        del self._running[stage]
        self._bar.update()
        seconds = time.monotonic() - self._start_times[stage]
        self.print_line(f"{self._numbers[stage]} {stage}: {result} after {seconds:,.0f} s{detail}")

    def skipped(self, stages: list[str]) -> None:
        """Move the bar past stages that will not run."""
        self._bar.update(len(stages))

    def close(self) -> None:
        self._bar.close()
