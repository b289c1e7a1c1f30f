"""What a search knows: its tries, their runs, and the networks trained again, as a JSON file.

The file is replaced in one step after every event, so that a kill loses nothing that was known.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from prunelab.commands.search.space import Objective, Point
from prunelab.core.errors import InputError
from prunelab.core.files import read_json, write

STATE_FILE = "state.json"
# stopped: a short run was not worth going on.
State = Literal["running", "stopped", "complete", "failed"]
MIN_DROP_SCALE = 0.005  # half a point: the unit of drops where none is allowed
CAUTION = 1.0  # standard errors by which a drop must be within before it is believed


@dataclass(frozen=True)
class Measurement:
    """What one experiment measured, as means over its seeds.

    Accuracies and drops are shares; `drop` is from the dense networks of the same seeds, and
    `drop_error` its standard error. `costs` and `dense_costs` are metrics by name. `faster` is the
    measured speed-up with the ends of its interval, if latency was measured.
    """

    accuracy: float
    accuracy_ci95: float
    drop: float
    drop_ci95: float
    drop_error: float
    costs: dict[str, float]
    dense_costs: dict[str, float]
    faster: tuple[float, float, float] | None = None

    def share(self, metric: str) -> float:
        """What is left of a cost, as a share of the dense network's."""
        if metric == "latency":
            assert self.faster is not None, "latency was not measured"
            return 1 / self.faster[0]
        return self.costs[metric] / self.dense_costs[metric]

    def bound(self, errors: float = CAUTION) -> float:
        """What the drop may be: so many standard errors more than was measured."""
        return self.drop + errors * self.drop_error


@dataclass(frozen=True)
class Run:
    """One experiment of a try: fine-tuning of so many epochs for these seeds."""

    name: str
    epochs: int
    seeds: list[int]
    measurement: Measurement


@dataclass
class Try:
    """One setting that was tried.

    `raw` are the sampler's values and `reports` its scores by epochs; `marks` are notes of the
    sampler's own on them. `goes_on` is true for a try that no comparison may stop. A try that
    failed has a `reason`; `run_failed` says that a run of it did, and not that it cannot be pruned.
    """

    number: int
    raw: dict[str, Any]
    point: Point
    goes_on: bool
    state: State = "running"
    runs: list[Run] = field(default_factory=list)
    reports: dict[int, float] = field(default_factory=dict)
    marks: dict[str, float] = field(default_factory=dict)
    value: float | None = None
    reason: str | None = None
    run_failed: bool = False

    @property
    def last(self) -> Measurement:
        """The measurement that says most: the longest, of the most seeds."""
        return self.runs[-1].measurement

    @property
    def epochs(self) -> int:
        """The epochs of fine-tuning that it took, over all seeds."""
        return sum(run.epochs * len(run.seeds) for run in self.runs)

    def is_within(self, max_drop: float) -> bool:
        """Whether it came to its end and lost no more than `max_drop`, a share."""
        return self.state == "complete" and self.last.drop <= max_drop

    def has_all(self, seeds: list[int]) -> bool:
        """Whether it came to its end with all seeds."""
        return self.state == "complete" and self.runs[-1].seeds == seeds

    def is_believed(self, seeds: list[int], max_drop: float, errors: float = CAUTION) -> bool:
        """Whether it was within the drop with all seeds, by so many standard errors."""
        return self.has_all(seeds) and self.last.bound(errors) <= max_drop


@dataclass(frozen=True)
class Final:
    """A network trained again and evaluated once on the test split.

    `role` is candidate, random or scratch. `tried` is the number of the try it comes from.
    """

    role: Literal["candidate", "random", "scratch"]
    tried: int
    method: str
    name: str
    params: dict[str, Any]
    measurement: Measurement | None
    failure: str | None = None


@dataclass
class SearchState:
    """All of a search. `request` and `identity` say what it is a search for, and in what."""

    request: dict[str, Any]
    identity: dict[str, Any]
    skipped: dict[str, str] = field(default_factory=dict)
    tries: list[Try] = field(default_factory=list)
    ended: str | None = None  # why no more tries are begun
    out_of_reach: bool = False
    seconds: float = 0.0  # that the tries took, over all starts of the command
    finals: list[Final] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Replace the file in one step."""
        # JSON of `write_json` has six decimals, and the sampler needs all of them.
        import json

        text = json.dumps(asdict(self), indent=1, sort_keys=True)
        write(folder / STATE_FILE, f"{text}\n".encode())

    @classmethod
    def load(cls, folder: Path) -> "SearchState | None":
        """The search of a folder, None if none began there.

        Raises:
            InputError: if the file is damaged.
        """
        path = folder / STATE_FILE
        if not path.exists():
            return None

        try:
            return _parse(read_json(path))
        except (InputError, KeyError, TypeError, ValueError, AttributeError):
            raise InputError(
                f"{path} is damaged. Remove the folder {folder} to begin the search again; "
                "its experiments stay, and are not run again."
            ) from None

    @property
    def validation_networks(self) -> int:
        """How many networks were measured on the validation split for the tries."""
        return sum(len(run.seeds) for tried in self.tries for run in tried.runs)

    @property
    def epochs(self) -> int:
        """The epochs of fine-tuning of all tries."""
        return sum(tried.epochs for tried in self.tries)

    @property
    def candidates(self) -> list[Final]:
        """The networks that may be the answer: those of `finals` that are no controls."""
        return [final for final in self.finals if final.role == "candidate"]

    @property
    def tested(self) -> list[tuple[Final, Measurement]]:
        """The candidates that were measured on the test split, the smallest first."""
        tested = []
        for final in self.candidates:
            if final.measurement is not None:
                tested.append((final, final.measurement))
        return tested


def _parse(content: Any) -> SearchState:
    tries = []
    for entry in content["tries"]:
        runs = []
        for run in entry["runs"]:
            runs.append(Run(**{**run, "measurement": _measurement(run["measurement"])}))
        reports = {int(epochs): float(score) for epochs, score in entry["reports"].items()}
        point = Point(**entry["point"])
        tries.append(Try(**{**entry, "point": point, "runs": runs, "reports": reports}))

    finals = []
    for entry in content["finals"]:
        finals.append(Final(**{**entry, "measurement": _measurement(entry["measurement"])}))
    return SearchState(**{**content, "tries": tries, "finals": finals})


def _measurement(content: Any) -> Any:
    if content is None:
        return None
    faster = content["faster"]
    if faster is not None:
        faster = tuple(faster)
    return Measurement(**{**content, "faster": faster})


def cheapest(tries: Iterable[Try], objective: Objective) -> Try | None:
    """The try that costs least, None if there are none."""
    return min(tries, key=lambda tried: tried.last.share(objective.metric), default=None)


def best_within(tries: Iterable[Try], objective: Objective, max_drop: float) -> Try | None:
    """The cheapest complete try within the drop, None if there is none."""
    return cheapest((tried for tried in tries if tried.is_within(max_drop)), objective)


def best_believed(
    tries: Iterable[Try], objective: Objective, seeds: list[int], max_drop: float
) -> Try | None:
    """The cheapest try whose drop is believed to be within; if there is none, of those within."""
    tries = list(tries)
    believed = [tried for tried in tries if tried.is_believed(seeds, max_drop)]
    return cheapest(believed, objective) or best_within(tries, objective, max_drop)


def score(share: float, drop: float, max_drop: float, *, final: bool) -> float:
    """What the sampler minimises: the logarithm (base 2) of the share of the cost that is left.

    A drop above `max_drop` adds to it. While training is short, a drop of twice `max_drop` costs
    as much as halving the cost gains, because longer training may make up for it. In the end it
    costs more than any saving of 16 times.
    """
    excess = max(0.0, drop - max_drop) / max(max_drop, MIN_DROP_SCALE)
    value = math.log2(share) + excess
    if final and excess:
        value += 4 + 2 * excess
    return value
