"""What a changed metric means: whether the change is beyond its 95 % interval, exact, or of an unknown interval."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import hypot, isfinite
from pathlib import Path
from typing import Any

from prunelab.project.lock_state import Differences
from prunelab.project.paths import DENSE_METRICS, GRID, METRICS
from prunelab.report.pareto import LARGEST

CI = "_ci95"
# Shares and ratios that follow from a network's tensors, as counts do; every other float is a measurement.
EXACT = ("sparsity", "params_ratio", "macs_ratio", "ratio_asked", "ratio_achieved")
GROUPS = ("dense", "focus", "grid", "other")
Values = Mapping[str, Any]


class Reading(StrEnum):
    within = "within"
    beyond = "beyond"
    exact = "exact"
    unknown = "no interval known"
    nonsense = "not a number"
    added = "new"
    removed = "gone"


@dataclass(frozen=True)
class Change:
    """A metric that is not what it was; `half` is half the 95 % interval of its change where there is one."""

    key: str
    old: Any
    new: Any
    old_half: float | None
    new_half: float | None

    @property
    def half(self) -> float | None:
        """Two results that are independent: the half widths added in quadrature."""
        return (
            None
            if self.old_half is None or self.new_half is None
            else hypot(self.old_half, self.new_half)
        )

    @property
    def difference(self) -> float | None:
        return self.new - self.old if number(self.old) and number(self.new) else None

    @property
    def reading(self) -> Reading:
        if self.old is None or self.new is None:
            return Reading.added if self.old is None else Reading.removed
        if any(isinstance(side, float) and not isfinite(side) for side in (self.old, self.new)):
            return Reading.nonsense
        if self.half is not None and self.difference is not None:
            # Files hold six decimals, so that a sum of two of them is no better than that.
            return Reading.within if abs(self.difference) <= self.half + 1e-9 else Reading.beyond
        floats = isinstance(self.old, float) or isinstance(self.new, float)
        return Reading.unknown if floats and self.key not in EXACT else Reading.exact


@dataclass(frozen=True)
class Configuration:
    """The metrics of one file on both sides; empty where a side has no such file."""

    group: str
    name: str
    old: Values
    new: Values

    def change(self, key: str) -> Change:
        halves = (
            half if number(half := side.get(key + CI)) else None for side in (self.old, self.new)
        )
        return Change(key, self.old.get(key), self.new.get(key), *halves)

    def changes(self) -> list[Change]:
        """Every metric that is not the same, its interval being part of it; none of a file that came or went."""
        if not (self.old and self.new):
            return []
        keys = sorted({*self.old, *self.new})
        shown = [key for key in keys if not (key.endswith(CI) and key.removesuffix(CI) in keys)]
        return [
            self.change(key) for key in shown if any(self._differ(one) for one in (key, key + CI))
        ]

    def _differ(self, key: str) -> bool:
        return not same(self.old.get(key), self.new.get(key))


def configurations(found: Differences) -> list[Configuration]:
    """The dense network, the focus, the grid's cells by name, then what else DVC calls metrics."""
    made = [
        Configuration(*_place(path), *({key: its[side] for key, its in keys.items() if its.get(side) is not None}
                                       for side in ("old", "new")))
        for path, keys in found.items()
    ]  # fmt: skip
    return sorted(made, key=lambda one: (GROUPS.index(one.group), one.name))


def _place(path: str) -> tuple[str, str]:
    own = {DENSE_METRICS: ("dense", "dense"), METRICS: ("focus", "focus")}
    if Path(path).parent == GRID:
        return "grid", Path(path).stem
    return own.get(Path(path), ("other", path))


def number(value: Any) -> bool:
    """Whether one can reckon with it: NaN, infinities, truths and words are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def same(one: Any, other: Any) -> bool:
    """Equal, or not a number both."""
    return bool(one == other or (one != one and other != other))
