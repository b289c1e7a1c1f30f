"""What a run shows: a line for every event, and on a terminal a bar below them."""

import sys
import time

from tqdm import tqdm


class Display:
    """Stages are numbered as they start; `total` are to be started."""

    def __init__(self, total: int):
        self._total = total
        self._begun: dict[str, tuple[str, float]] = {}
        self._running: dict[str, None] = {}
        self._bar = tqdm(
            total=total,
            unit="stage",
            leave=False,
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
        )

    def tell(self, line: str) -> None:
        self._bar.clear()
        print(line, flush=True)
        self.refresh()

    def refresh(self) -> None:
        self._bar.set_postfix_str(", ".join(self._running))

    def started(self, stage: str, where: str) -> None:
        place = f"[{len(self._begun) + 1}/{self._total}]"
        self._begun[stage] = place, time.monotonic()
        self._running[stage] = None
        self.tell(f"{place} {stage}: started{where}")

    def ended(self, stage: str, how: str, more: str = "") -> None:
        place, begun = self._begun[stage]
        del self._running[stage]
        self._bar.update()
        self.tell(f"{place} {stage}: {how} after {time.monotonic() - begun:,.0f} s{more}")

    def skipped(self, stages: list[str]) -> None:
        self._bar.update(len(stages))

    def close(self) -> None:
        self._bar.close()
