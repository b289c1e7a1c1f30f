"""How many examples of every class each split gets, and what would fit if a class gets none.

Everything here follows from the counts of the classes, before any example is read.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from prunelab.core.text import name_list
from prunelab.data.dataset import ClassCounts

FINE_STEPS = 100  # tried fractions are multiples of 1 / FINE_STEPS ...
COARSE_STEPS = 20  # ... or of 1 / COARSE_STEPS, if two of them change together
MAX_TRIED_COUNTS = 2_000


def share_out(
    counts: np.ndarray, fraction: float, random: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """How many examples of every class remain, and how many are split off [classes].

    The draw is that of scikit-learn's `train_test_split` with `stratify`. Some may be 0.
    """
    count = int(counts.sum())
    taken_count = math.ceil(fraction * count)
    rest = _proportional(counts, count - taken_count, random)
    taken = _proportional(counts - rest, taken_count, random)
    return rest, taken


def _proportional(counts: np.ndarray, total: int, random: np.random.RandomState) -> np.ndarray:
    """How many of `total` examples each class gets, in proportion to its count [classes].

    Classes with the largest remainders get the examples that rounding down leaves, and chance
    decides between equal remainders.
    """
    exact = counts / counts.sum() * total
    shares = np.floor(exact)
    remainders = exact - shares
    left = int(total - shares.sum())

    for remainder in np.unique(remainders)[::-1]:
        if left == 0:
            break
        (tied,) = np.where(remainders == remainder)
        chosen = random.choice(tied, size=min(len(tied), left), replace=False)
        shares[chosen] += 1
        left -= len(chosen)
    return np.asarray(shares, dtype=int)


@dataclass(frozen=True)
class _Gap:
    """Classes of which a split would have no example.

    `name` is the split that is taken off meanwhile, from `total` examples, and `lacking` the split
    without the classes.
    """

    name: str
    total: int
    lacking: str
    classes: list[int]


@dataclass(frozen=True)
class _Plan:
    """The splits that are taken off the official training split, one after another.

    Args:
        counts: examples of every class, int64 [classes], all above 0
        fractions: by the name of the split, in order
        seed: of every draw
    """

    counts: np.ndarray
    fractions: dict[str, float]
    seed: int

    def gap(self) -> _Gap | None:
        """The first split that would lack classes; None if every split has all of them."""
        rest = self.counts
        for name, fraction in self.fractions.items():
            total = int(rest.sum())
            rest, taken = share_out(rest, fraction, np.random.RandomState(self.seed))
            for lacking, split_counts in ((name, taken), ("train", rest)):
                absent = np.flatnonzero(split_counts == 0)
                if len(absent):
                    return _Gap(name, total, lacking, absent.tolist())
        return None

    def fits(self, **fractions: float) -> bool:
        return replace(self, fractions=self.fractions | fractions).gap() is None


def split_problems(
    class_counts: ClassCounts, test_fraction: float, validation_fraction: float, seed: int
) -> list[str]:
    """At most one line: the classes that a split would lack, and what would fit.

    The fractions and the seed are those of `splits.three_way_split`.
    """
    fractions = {}
    if not class_counts.has_test:
        fractions["test"] = test_fraction
    if not class_counts.has_validation:
        fractions["validation"] = validation_fraction

    counts = np.array(list(class_counts.train.values()))
    plan = _Plan(counts, fractions, seed)
    gap = plan.gap()
    if gap is None:
        return []

    class_names = list(class_counts.train)
    lacking = [f"{class_names[index]} ({counts[index]})" for index in gap.classes]
    options = [*_fitting_fractions(plan, gap.name), *_fitting_counts(plan)]
    advice = "no fractions fit"
    if options:
        advice = f"what would fit: {', or '.join(options)}"
    return [
        f"data.{gap.name}_fraction: {fractions[gap.name]:g} of {gap.total} examples leaves "
        f"{gap.lacking} without {len(lacking)} of {len(counts)} classes: {name_list(lacking)}; "
        f"{advice}"
    ]


def _fitting_fractions(plan: _Plan, name: str) -> Iterator[str]:
    """The fractions nearest to those of the plan with which it fits; at most one option.

    The fraction of the split `name` changes alone, if that is enough.
    """
    tried = [step / FINE_STEPS for step in range(1, FINE_STEPS)]
    for fraction in sorted(tried, key=lambda tried: abs(tried - plan.fractions[name])):
        if plan.fits(**{name: fraction}):
            yield f"data.{name}_fraction: {fraction:g}"
            return

    if plan.fractions.keys() != {"test", "validation"}:
        return
    tried = [step / COARSE_STEPS for step in range(1, COARSE_STEPS)]
    pairs = [(test, validation) for test in tried for validation in tried]

    def distance(pair: tuple[float, float]) -> float:
        return abs(pair[0] - plan.fractions["test"]) + abs(pair[1] - plan.fractions["validation"])

    for test, validation in sorted(pairs, key=distance):
        if plan.fits(test=test, validation=validation):
            yield (f"data.test_fraction: {test:g} with data.validation_fraction: {validation:g}")
            return


def _fitting_counts(plan: _Plan) -> Iterator[str]:
    """The smallest count to which smaller classes could grow so that the plan fits, if any."""
    smallest = int(plan.counts.min())
    for count in range(smallest + 1, smallest + MAX_TRIED_COUNTS):
        grown = replace(plan, counts=np.maximum(plan.counts, count))
        if grown.gap() is None:
            yield f"{count} examples of every class that has fewer"
            return
