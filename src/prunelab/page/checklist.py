"""The rules that make a pruning study credible, and which of them hold here.

After Blalock et al. 2020, What is the State of Neural Network Pruning?, and reviews of it by people
who tried to reproduce published results.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prunelab.core.plurals import UNITS
from prunelab.report.rows import column
from prunelab.report.style import is_control

Row = Mapping[str, Any]

MIN_SEEDS, MIN_RATIOS, MIN_PAIRS = 3, 5, 3
WEIGHT_GROUPS = ("n_of_m", "pattern", "vector", "kernel", "block", "filter")

# What the pipeline ensures in every study.
ENFORCED = (
    "The dense network passes through the same evaluation as every pruned one; drops are computed,"
    " paired by seed.",
    "All methods start from the same dense weights, seed by seed.",
    "Nothing is chosen on the test split: the last epoch counts, and only evaluation reads it.",
    "What was achieved stands beside what was asked: sparsity, parameters, MACs.",
    "Parameters and MACs are both reported, zeros counted and not; MACs are called theory.",
)


@dataclass(frozen=True)
class Check:
    """One rule, whether it `holds`, and the `evidence`."""

    rule: str
    holds: bool
    evidence: str


def checklist(dense: Row, points: Sequence[Row], device: str) -> list[Check]:
    """Check the rules that the results of a study can show; `ENFORCED` has the others.

    Args:
        dense: The metrics of the dense networks.
        points: The metrics of the grid's cells, each with its method and ratio.
        device: What the latency was measured on.
    """
    methods = list(dict.fromkeys(column(points, "method")))

    return [
        _seeds(dense["seeds"]),
        _pairs(),
        _controls(methods),
        _baseline(methods),
        _from_scratch(methods),
        _ratios(points),
        _accuracy_falls(methods, points),
        _unseen_validation(dense["imported"]),
        Check("latency measured, not computed from MACs", True, device),
    ]


def _seeds(seeds: int) -> Check:
    return Check(f"at least {MIN_SEEDS} seeds", seeds >= MIN_SEEDS, str(seeds))


def _pairs() -> Check:
    rule = (
        f"at least {MIN_PAIRS} pairs of data set and network before one method is called better"
        " than another"
    )
    return Check(rule, False, "1 pair; a study file runs others")


def _controls(methods: Sequence[str]) -> Check:
    families = set(map(family, methods))
    controlled = set(map(family, filter(is_control, methods)))
    without = ", ".join(sorted(families - controlled))

    evidence = f"none for {without}" if without else "yes"
    return Check("a random control for every family", not without, evidence)


def _baseline(methods: Sequence[str]) -> Check:
    return _any_method(
        "magnitude as a baseline",
        methods,
        lambda method: method.startswith(("l1", "l2")),
        otherwise="no L1 or L2 method",
    )


def _from_scratch(methods: Sequence[str]) -> Check:
    return _any_method(
        "the smaller network trained from scratch as a control",
        methods,
        lambda method: "scratch" in method,
        otherwise="no method that ends in _scratch",
    )


def _any_method(
    rule: str, methods: Sequence[str], matches: Callable[[str], bool], *, otherwise: str
) -> Check:
    """A rule that holds if some method matches; the evidence is which, or `otherwise`."""
    matching = ", ".join(filter(matches, methods))
    return Check(rule, bool(matching), matching or otherwise)


def _ratios(points: Sequence[Row]) -> Check:
    ratios = set(column(points, "ratio"))
    ratios.discard(0)  # at 0 nothing is pruned

    rule = f"at least {MIN_RATIOS} ratios, so that a curve has a shape"
    evidence = ", ".join(f"{ratio:g}" for ratio in sorted(ratios))
    return Check(rule, len(ratios) >= MIN_RATIOS, evidence or "none")


def _accuracy_falls(methods: Sequence[str], points: Sequence[Row]) -> Check:
    fallen = set()
    for point in points:
        if point["accuracy_drop"] > point["accuracy_drop_ci95"]:
            fallen.add(point["method"])

    evidence = f"a drop was shown for {len(fallen)} of {len(methods)} methods"
    return Check("ratios go on to where accuracy falls", fallen == set(methods), evidence)


def _unseen_validation(imported: int) -> Check:
    evidence = "its weights were imported" if imported else "it was trained here"
    return Check("the dense network has not seen the validation split", not imported, evidence)


def family(method: str) -> str:
    """What a method removes, as its name says: units of some kind, or single weights (masks)."""
    parts = method.split("_")
    for kind, units in UNITS.items():
        if kind != "weight" and kind in parts:
            return units
    return "masks"


def removes_alike(method: str, other: str) -> bool:
    """Whether two methods remove the same, as their names say.

    That is narrower than their family: a mask of whole filters costs more accuracy than one of as
    many single weights, so neither is a control for the other.
    """
    return family(method) == family(other) and _weight_group(method) == _weight_group(other)


def _weight_group(method: str) -> str:
    """The groups in which weights are masked, empty for single weights."""
    for group in WEIGHT_GROUPS:
        if f"_{group}_" in f"_{method}_":
            return group
    return ""
