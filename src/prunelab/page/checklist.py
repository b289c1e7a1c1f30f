"""What makes a pruning study believable, and which of it holds here; after Blalock et al. 2020, What is the State of
Neural Network Pruning?, and the review of it by those who tried to repeat published results.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prunelab.report.style import is_control

Row = Mapping[str, Any]
SEEDS, POINTS, PAIRS = 3, 5, 3
MANY_CLASSES = 10


@dataclass(frozen=True)
class Point:
    """One rule: whether it `holds`, and what was found."""

    rule: str
    holds: bool
    found: str


def checklist(dense: Row, points: Sequence[Row], device: str) -> list[Point]:
    """Go through the rules that a report can check; what the pipeline enforces is not asked again.

    `points` are the grid's cells, `device` is what latency was measured on.
    """
    return list(_rules(dense, points, device))


def _rules(dense: Row, points: Sequence[Row], device: str) -> Iterator[Point]:
    methods = list(dict.fromkeys(point["method"] for point in points))
    ratios = sorted(
        {point["ratio"] for point in points if point["ratio"]}
    )  # at 0 nothing is pruned
    seeds = dense["seeds"]
    yield Point(f"at least {SEEDS} seeds", seeds >= SEEDS, f"{seeds}")
    yield Point(
        f"at least {PAIRS} pairs of data set and network before one method is called better than another",
        False,
        "1 pair; a study file runs others",
    )
    controlled = {family(method) for method in methods if is_control(method)}
    without = ", ".join(sorted({family(method) for method in methods} - controlled))
    yield Point(
        "a random control for every family",
        not without,
        f"none for {without}" if without else "yes",
    )
    yield Point(
        "magnitude as a baseline",
        any(method.startswith(("l1", "l2")) for method in methods),
        ", ".join(method for method in methods if method.startswith(("l1", "l2")))
        or "no L1 or L2 method",
    )
    yield Point(
        "the smaller network trained from scratch as a control",
        any("scratch" in method for method in methods),
        ", ".join(method for method in methods if "scratch" in method)
        or "no method that ends in _scratch",
    )
    yield Point(
        f"at least {POINTS} ratios, so that a curve has a shape",
        len(ratios) >= POINTS,
        ", ".join(f"{ratio:g}" for ratio in ratios) or "none",
    )
    fallen = [point for point in points if point["accuracy_drop"] > point["accuracy_drop_ci95"]]
    yield Point(
        "ratios go on to where accuracy falls",
        {point["method"] for point in fallen} == set(methods),
        f"a drop was shown for {len({point['method'] for point in fallen})} of {len(methods)} methods",
    )
    yield Point(
        "the dense network has not seen the validation split",
        not dense["imported"],
        "its weights were imported" if dense["imported"] else "it was trained here",
    )
    yield Point("latency measured, not told from MACs", True, device)


def family(method: str) -> str:
    """What a method takes away, which its name tells: units of some kind, or weights."""
    return next(
        (f"{unit}s" for unit in ("channel", "head", "hidden") if unit in method.split("_")), "masks"
    )


ENFORCED = (
    "The dense network passes through the same evaluation as every pruned one; drops are computed, paired by seed.",
    "All methods start from the same dense weights, seed by seed.",
    "Nothing is chosen on the test split: the last epoch counts, and only evaluation reads it.",
    "What was achieved stands beside what was asked: sparsity, parameters, MACs.",
    "Parameters and MACs are both reported, zeros counted and not; MACs are called theory.",
)
