"""How long a run still takes, estimated by how long its stages took. It knows no processes."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from statistics import mean

from prunelab.core.errors import InputError
from prunelab.core.files import read_json, write_json


def group(stage: str) -> str:
    """The name that the stages of a grid share: `prune` for `prune@l1_channel-0.5`."""
    return stage.split("@")[0]


class Durations:
    """Seconds that stages took, by group: those of this run, or else of the last one."""

    def __init__(self, earlier: Mapping[str, float]) -> None:
        self._earlier = dict(earlier)
        self._measured: dict[str, list[float]] = {}

    @classmethod
    def read(cls, path: Path) -> "Durations":
        """Those that `write` left; none if there is no such file, or if it is damaged."""
        try:
            content = read_json(path)
            return cls({str(name): float(seconds) for name, seconds in content.items()})
        except (InputError, ValueError, TypeError, AttributeError):
            return cls({})

    def write(self, path: Path) -> None:
        """Keep them for the next run."""
        means = {name: mean(seconds) for name, seconds in self._measured.items()}
        write_json(path, self._earlier | means)

    def add(self, stage: str, seconds: float) -> None:
        """Note how long a stage took."""
        self._measured.setdefault(group(stage), []).append(seconds)

    def expected(self, stage: str) -> float | None:
        """How long a stage will take; None if no stage has ended yet.

        A group that is not known takes as long as the known ones on average.
        """
        name = group(stage)
        if name in self._measured:
            return mean(self._measured[name])
        if name in self._earlier:
            return self._earlier[name]
        if self._measured:
            return mean(mean(seconds) for seconds in self._measured.values())
        return None

    def left(
        self,
        waiting: Iterable[str],
        running: Mapping[str, float],
        jobs: int,
        alone: Collection[str] = (),
    ) -> float | None:
        """Seconds until all stages have ended; None if that cannot be said yet.

        Args:
            waiting: the stages that have not started.
            running: the stages that run, with the seconds since they started.
            jobs: how many stages run at a time.
            alone: the stages beside which nothing runs.
        """
        shared, single = 0.0, 0.0
        for stage, elapsed in [*((stage, 0.0) for stage in waiting), *running.items()]:
            expected = self.expected(stage)
            if expected is None:
                return None

            seconds = max(0.0, expected - elapsed)
            if stage in alone:
                single += seconds
            else:
                shared += seconds
        return single + shared / jobs


def describe(seconds: float | None) -> str:
    """Such as `about 2 min left`; empty for None."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s left"
    return f"about {round(seconds / 60)} min left"
