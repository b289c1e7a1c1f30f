"""What a search may choose: the space of params.yaml's section `search`, and points of it.

Nothing here imports torch or Optuna.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from prunelab.commands.studies.study_file import override
from prunelab.config.params import Budget, Search
from prunelab.config.restart import Restart
from prunelab.core.errors import InputError
from prunelab.core.text import did_you_mean
from prunelab.pruning.methods import KINDS, METHODS, Method

Layers = Literal["method", "sensitivity"]
CONTROL_CRITERION = "random"
# Of a method, a ratio and a rounding: the nearest ratio at which the network can be pruned.
NearestRatio = Callable[[str, float, int], float]

RATIO_DECIMALS = 3
RATE_DIGITS = 2


def as_asked(method: str, ratio: float, round_to: int) -> float:
    """The ratio itself, for networks that can be pruned at every one."""
    return ratio


@dataclass(frozen=True)
class Objective:
    """What is minimised: a metric, the budget by which ratios are counted, and words for people.

    Masks shorten neither `macs` nor `params` nor latency, so only methods that remove units count
    then.
    """

    name: str
    metric: str
    budget: Budget
    noun: str
    needs_units: bool


OBJECTIVES = {
    "macs": Objective("macs", "macs", "macs", "MACs", needs_units=True),
    "latency": Objective("latency", "latency", "macs", "latency", needs_units=True),
    "params": Objective("params", "params", "params", "parameters", needs_units=True),
    "size_compressed_bytes": Objective(
        "size_compressed_bytes", "size_compressed_bytes", "params", "compressed bytes", False
    ),
}


@dataclass(frozen=True)
class Point:
    """One setting: everything that a search chooses, but for epochs and seeds.

    `layers` says who spreads `ratio` over the layers: the method, or the curves of sensitivity.
    """

    method: str
    ratio: float
    layers: Layers
    round_to: int
    learning_rate: float
    distill: float
    recalibrate: int

    def describe(self) -> str:
        """The point in a few words, without what every point has."""
        words = [f"{self.method} at {self.ratio:g}"]
        if self.layers == "sensitivity":
            words.append("layers by sensitivity")
        if self.round_to > 1:
            words.append(f"widths in multiples of {self.round_to}")
        words.append(f"learning rate {self.learning_rate:g}")
        if self.distill:
            words.append(f"distillation {self.distill:g}")
        if self.recalibrate:
            words.append(f"{self.recalibrate} examples re-calibrate")
        return ", ".join(words)


@dataclass(frozen=True)
class Space:
    """The methods that are left, the ranges, and why other methods are skipped.

    `nearest_ratio` gives, for a method, a ratio and a rounding, the ratio next to it at which the
    network can be pruned.
    """

    methods: list[str]
    search: Search
    skipped: dict[str, str] = field(default_factory=dict)
    nearest_ratio: NearestRatio = as_asked

    def point(self, raw: Mapping[str, Any]) -> Point:
        """The point that a sampler's values mean, rounded so that its command can be read.

        Methods that rank channels across layers spread the ratio themselves.
        """
        method = str(raw["method"])
        layers: Layers = raw["layers"]
        if layers == "sensitivity" and not takes_layer_ratios(METHODS[method]):
            layers = "method"

        return Point(
            method=method,
            ratio=round(float(raw["ratio"]), RATIO_DECIMALS),
            layers=layers,
            round_to=int(raw["round_to"]),
            learning_rate=float(f"{float(raw['learning_rate']):.{RATE_DIGITS}g}"),
            distill=float(raw["distill"]),
            recalibrate=int(raw["recalibrate"]),
        )

    def feasible(self, point: Point) -> Point:
        """The point with the nearest ratio at which the network can be pruned.

        Widths are whole numbers, so that a method misses some ratios by too much, and cannot reach
        some at all.
        """
        if point.layers == "sensitivity":
            return point
        ratio = self.nearest_ratio(point.method, point.ratio, point.round_to)
        return replace(point, ratio=ratio)

    def first(self, ratio: float, learning_rate: float) -> dict[str, Any]:
        """A sampler's values of the plainest point: the first of every list.

        The learning rate is the nearest in the range to the one given.
        """
        rates = self.search.learning_rate
        return {
            "method": self.methods[0],
            "ratio": ratio,
            "layers": self.search.layers[0],
            "round_to": self.search.round_to[0],
            "learning_rate": min(max(learning_rate, rates.low), rates.high),
            "distill": self.search.distill[0],
            "recalibrate": self.search.recalibrate[0],
        }


def takes_layer_ratios(method: Method) -> bool:
    """Whether ratios by layer, from the curves of sensitivity, can replace the method's own."""
    layer_by_layer = method.scope in ("uniform", "layerwise")
    return layer_by_layer and method.granularity in ("weight", *KINDS)


def space_of(
    search: Search,
    objective: Objective,
    problem_of: Callable[[str], str | None],
    nearest_ratio: NearestRatio = as_asked,
) -> Space:
    """The space of params.yaml, with the methods that the network and the objective allow.

    `problem_of(method)` says why a method cannot prune this network, or None.

    Raises:
        InputError: for unknown names, or if no method is left.
    """
    names = _expand(search.methods)
    methods, skipped = [], {}
    for name in names:
        if objective.needs_units and METHODS[name].masks:
            reason: str | None = f"masks leave all {objective.noun} in place"
        else:
            reason = problem_of(name)

        if reason is None:
            methods.append(name)
        else:
            skipped[name] = reason

    if not methods:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise InputError(
            f"search.methods: none can reduce the {objective.noun} of this network. {reasons}"
        )
    return Space(methods, search, skipped, nearest_ratio)


def _expand(entries: Sequence[str]) -> list[str]:
    """The methods that the entries of `search.methods` name, each once."""
    granularities = sorted({method.granularity for method in METHODS.values()})

    names: list[str] = []
    problems = []
    for entry in entries:
        if entry in METHODS:
            names.append(entry)
        elif entry in granularities:
            names += [name for name in METHODS if _belongs_to_family(METHODS[name], entry)]
        else:
            hint = did_you_mean(entry, [*METHODS, *granularities])
            problems.append(
                f"search.methods: unknown method {entry!r}{hint}; valid: a name of "
                f"`prunelab list methods`, or one of {', '.join(granularities)}"
            )

    if problems:
        raise InputError(problems)
    return list(dict.fromkeys(names))


def _belongs_to_family(method: Method, granularity: str) -> bool:
    """Whether a granularity stands for the method: no control, and nothing is trained twice."""
    is_plain = method.restart is Restart.NONE and not method.trains
    is_control = method.criterion == CONTROL_CRITERION
    return method.granularity == granularity and is_plain and not is_control


def params_of(
    base: Mapping[str, Any],
    objective: Objective,
    point: Point,
    *,
    epochs: int,
    seeds: Iterable[int],
    split: str,
    layer_ratios: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The whole parameters with which the focus measures a point.

    `layer_ratios` are those of the curves, for a point whose layers follow them.
    """
    values: dict[str, Any] = {
        "method": point.method,
        "ratio": point.ratio,
        "budget": objective.budget,
        "seeds": list(seeds),
        "prune.round_to": point.round_to,
        "prune.recalibrate": point.recalibrate,
        "finetune.epochs": epochs,
        "finetune.learning_rate": point.learning_rate,
        "finetune.distill": point.distill,
        "evaluate.split": split,
    }
    if layer_ratios is not None:
        # Every layer has its ratio, so that the overall one would be a second opinion.
        values |= {"ratio": 0, "budget": "native", "prune.layer_ratios": dict(layer_ratios)}

    params = deepcopy(dict(base))
    override(params, values)
    return params


def random_control(name: str) -> str | None:
    """The method that removes the same kind of units at random, None if there is none."""
    return _control(name, lambda other: other.criterion == CONTROL_CRITERION)


def scratch_control(name: str) -> str | None:
    """The method that trains such a network from scratch, None if there is none."""
    return _control(name, lambda other: other.restart is Restart.SCRATCH)


def _control(name: str, is_control: Callable[[Method], bool]) -> str | None:
    """The control of a method: of the same granularity, and of the same scope where there is one.

    It removes everything in one step. A method that is such a control itself has none.
    """
    method = METHODS[name]
    if is_control(method):
        return None

    candidates = []
    for other_name, other in METHODS.items():
        alike = other.granularity == method.granularity and other.schedule == "one_shot"
        restarts_alike = other.restart in (Restart.NONE, Restart.SCRATCH)
        if alike and restarts_alike and is_control(other):
            candidates.append(other_name)

    candidates.sort(key=lambda other_name: METHODS[other_name].scope != method.scope)
    if not candidates:
        return None
    return candidates[0]
