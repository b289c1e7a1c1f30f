"""What a changed metric means: beyond its 95 % interval, within it, exact or unknown."""

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
# Shares and ratios that follow from the shapes of a network's tensors. Like counts they are exact;
# every other float is a measurement.
EXACT = ("sparsity", "params_ratio", "macs_ratio", "ratio_asked", "ratio_achieved")
GROUPS = ("dense", "focus", "grid", "other")
ROUNDING = 1e-9  # metrics files hold six decimals, so a sum of two of them is no more precise
Values = Mapping[str, Any]


class Significance(StrEnum):
    """How a reader should take a change."""

    within = "within"
    beyond = "beyond"
    exact = "exact"
    unknown = "no interval known"
    nonsense = "not a number"
    added = "new"
    removed = "gone"


@dataclass(frozen=True)
class Change:
    """A metric before and after, each with half of its 95 % interval where there is one."""

    key: str
    old: Any
    new: Any
    old_half: float | None
    new_half: float | None

    @property
    def half(self) -> float | None:
        """Half the 95 % interval of the change: both half widths added in quadrature.

        That treats the two results as independent.
        """
        if self.old_half is None or self.new_half is None:
            return None
        return hypot(self.old_half, self.new_half)

    @property
    def difference(self) -> float | None:
        """New minus old; None unless both are finite numbers."""
        if not (is_number(self.old) and is_number(self.new)):
            return None
        difference: float = self.new - self.old
        return difference

    @property
    def significance(self) -> Significance:
        """Whether the change is beyond its interval."""
        if self.old is None:
            return Significance.added
        if self.new is None:
            return Significance.removed

        sides = (self.old, self.new)
        if any(isinstance(side, float) and not isfinite(side) for side in sides):
            return Significance.nonsense

        if self.half is not None and self.difference is not None:
            if abs(self.difference) <= self.half + ROUNDING:
                return Significance.within
            return Significance.beyond

        is_measurement = any(isinstance(side, float) for side in sides) and self.key not in EXACT
        if is_measurement:
            return Significance.unknown
        return Significance.exact


@dataclass(frozen=True)
class Configuration:
    """The metrics of one file on both sides; empty where a side has no such file."""

    group: str
    name: str
    old: Values
    new: Values

    def change(self, key: str) -> Change:
        """One metric on both sides, with its intervals."""
        return Change(
            key=key,
            old=self.old.get(key),
            new=self.new.get(key),
            old_half=_half_width(self.old, key),
            new_half=_half_width(self.new, key),
        )

    def changes(self) -> list[Change]:
        """Every metric that differs, or whose interval differs; none if the file came or went."""
        if not (self.old and self.new):
            return []

        keys = sorted({*self.old, *self.new})
        changes = []
        for key in keys:
            is_interval_of_another = key.endswith(CI) and key.removesuffix(CI) in keys
            if is_interval_of_another:
                continue
            if self._differs(key) or self._differs(key + CI):
                changes.append(self.change(key))
        return changes

    def _differs(self, key: str) -> bool:
        return not same(self.old.get(key), self.new.get(key))


def configurations(differences: Differences) -> list[Configuration]:
    """The dense network, the focus, the grid's cells by name, then all other metrics files."""
    found = []
    for path, metrics in differences.items():
        group, name = _group_and_name(path)
        old = _side(metrics, "old")
        new = _side(metrics, "new")
        found.append(Configuration(group, name, old, new))

    return sorted(found, key=lambda entry: (GROUPS.index(entry.group), entry.name))


def _side(metrics: Mapping[str, Mapping[str, Any]], side: str) -> dict[str, Any]:
    """The values of one side, by key, without those that it lacks."""
    return {key: both[side] for key, both in metrics.items() if both.get(side) is not None}


def _group_and_name(path: str) -> tuple[str, str]:
    if Path(path) == DENSE_METRICS:
        return "dense", "dense"
    if Path(path) == METRICS:
        return "focus", "focus"
    if Path(path).parent == GRID:
        return "grid", Path(path).stem
    return "other", path


def _half_width(values: Values, key: str) -> float | None:
    half: Any = values.get(key + CI)
    if not is_number(half):
        return None
    width: float = half
    return width


def is_number(value: Any) -> bool:
    """Whether arithmetic with it makes sense: neither text nor a boolean, NaN or an infinity."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def same(old: Any, new: Any) -> bool:
    """Whether two values are equal, or are both NaN."""
    both_nan = old != old and new != new
    return bool(old == new or both_nan)
