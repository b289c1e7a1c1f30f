"""Choose masks from a saliency: rank units of weights and drop the least salient ones.

`MaskPruner` decides how much goes at which step. Here a ratio is always a share of the weights that
a selection is about.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum, auto
from math import prod

import torch
from torch import Tensor

from prunelab.config.params import Prune
from prunelab.core.errors import InputError
from prunelab.pruning.unstructured.granularity import (
    WEIGHT,
    Granularity,
    achievable_ratio,
    explain_infeasible,
)
from prunelab.pruning.unstructured.ranking import Saliency, check_scores, keep_largest
from prunelab.pruning.unstructured.tiling import Tiling, WeightShape
from prunelab.training.masking import Masks


class Scope(StrEnum):
    """Which units compete with each other."""

    GLOBAL = auto()  # those of all tensors
    LAYERWISE = auto()  # those of one tensor
    ROWWISE = auto()  # single weights of one row, that is, of one output


@dataclass(frozen=True)
class Selection:
    """The rule by which masks are chosen, apart from the ratio.

    `granularity` says which units go, and `scope` which of them compete. `settings` has the sizes
    of blocks and groups. `layer_ratios` gives tensors, by name, a ratio of their own: 0 protects a
    tensor. All other tensors follow the ratio of the network.
    """

    granularity: Granularity
    scope: Scope
    settings: Prune
    layer_ratios: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.granularity.choose_in_groups:
            assert self.scope is Scope.LAYERWISE, "choices within groups do not compete"
        if self.scope is Scope.ROWWISE:
            assert self.granularity is WEIGHT, "only single weights are ranked within a row"

    def ratio_of(self, name: str, ratio: float) -> float:
        """The ratio of one tensor at a ratio of the network."""
        return self.layer_ratios.get(name, ratio)


def choose_masks(saliency: Saliency, ratio: float, selection: Selection) -> Masks:
    """Drop the units of least mean saliency, until the share `ratio` of the weights is dropped.

    The share is of the weights that the granularity applies to, in tensors without a ratio of their
    own. It is met to within half a unit: over the network in GLOBAL scope, else in every tensor or
    row. A tensor or row that is ranked by itself keeps at least one unit. Choices within groups
    (N:M, patterns) drop the share that `achievable_ratio` returns.

    Args:
        saliency: scores of every weight, on the CPU, by tensor name; higher is more worth keeping.
        ratio: the share to drop, 0 (nothing) to below 1.
        selection: which units go, and which of them compete.

    Returns:
        A mask for every affected tensor, in the order of the saliency. Tensors that the granularity
        does not apply to, and protected ones, have no mask and stay dense.

    Raises:
        InputError: if a saliency is not a number, if all of it is zero, or if a ratio would drop
            nothing or everything.
    """
    shapes = {name: tuple(score.shape) for name, score in saliency.items()}
    affected = affected_tensors(shapes, ratio, selection)
    scores = {name: _in_single_precision(saliency[name]) for name in affected}
    check_scores(scores, "weights")

    ratios = {name: selection.ratio_of(name, ratio) for name in scores}
    if selection.granularity.choose_in_groups:
        return selection.granularity.choose_in_groups(scores, ratios, selection.settings)
    if selection.scope is Scope.ROWWISE:
        return {name: _rank_in_rows(score, ratios[name]) for name, score in scores.items()}

    # Rank tensors one by one if they do not compete, and all others together.
    masks: Masks = {}
    competing: Saliency = {}
    for name, score in scores.items():
        if selection.scope is Scope.LAYERWISE or name in selection.layer_ratios:
            masks |= _rank_units({name: score}, ratios[name], selection, least_kept=1)
        else:
            competing[name] = score
    if competing:
        masks |= _rank_units(competing, ratio, selection, least_kept=0)

    return {name: masks[name] for name in scores}


def affected_tensors(
    shapes: Mapping[str, WeightShape], ratio: float, selection: Selection
) -> list[str]:
    """The names of the tensors that lose weights, in the order of `shapes`.

    Raises:
        InputError: if a ratio would drop nothing or everything. It has a line for the network, and
            one for every tensor with an infeasible ratio of its own.
    """
    granularity, settings = selection.granularity, selection.settings

    affected: list[str] = []
    free_shapes: list[WeightShape] = []  # of tensors without a ratio of their own
    layer_problems: list[str] = []
    for name, shape in shapes.items():
        layer_ratio = selection.layer_ratios.get(name)
        if layer_ratio == 0 or not granularity.applies(shape, settings):
            continue

        affected.append(name)
        if layer_ratio is None:
            free_shapes.append(shape)
            continue

        problem = explain_infeasible([shape], granularity, layer_ratio, settings)
        if problem:
            layer_problems.append(f"{name}: {problem}")

    problems: list[str] = []
    if free_shapes or not affected:
        problem = explain_infeasible(free_shapes, granularity, ratio, settings)
        if problem:
            problems.append(problem)

    problems += layer_problems
    if problems:
        raise InputError(problems)
    return affected


def expected_drops(
    shapes: Mapping[str, WeightShape], ratio: float, selection: Selection
) -> dict[str, float]:
    """How many weights `choose_masks` will drop of every tensor, as far as shapes tell.

    In GLOBAL scope the saliency decides how the weights divide among the tensors. There the counts
    are those of equal shares, and only their sum is right.

    Raises:
        InputError: if a ratio would drop nothing or everything, as `affected_tensors`.
    """
    granularity, settings = selection.granularity, selection.settings

    drops: dict[str, float] = {}
    for name in affected_tensors(shapes, ratio, selection):
        shape = shapes[name]
        share = selection.ratio_of(name, ratio)

        if granularity.choose_in_groups:
            share = achievable_ratio([shape], granularity, share, settings)
        elif selection.scope is not Scope.GLOBAL or name in selection.layer_ratios:
            units = granularity.count_choices(shape, settings)
            if selection.scope is Scope.ROWWISE:
                units = prod(shape[1:])
            share = min(round(share * units), units - 1) / units

        drops[name] = share * prod(shape)

    return drops


def _in_single_precision(score: Tensor) -> Tensor:
    """The same numbers in a type that NumPy has, and in which sums of them do not overflow."""
    if score.dtype in (torch.bfloat16, torch.float16):
        return score.float()
    return score


def _rank_units(scores: Saliency, ratio: float, selection: Selection, *, least_kept: int) -> Masks:
    """Rank the units of these tensors together, and drop the share `ratio` of their weights.

    At least `least_kept` units stay.
    """
    tilings: list[Tiling] = []
    means: list[Tensor] = []
    for score in scores.values():
        tiling = selection.granularity.tiling(tuple(score.shape), selection.settings)
        assert tiling is not None, "affected tensors have units"
        tilings.append(tiling)
        means.append(tiling.means(score))

    all_means = torch.cat(means)
    max_drop = len(all_means) - least_kept
    if _have_equal_units(tilings):
        drop = min(round(ratio * len(all_means)), max_drop)
        kept = keep_largest(all_means.unsqueeze(0), drop)[0]
    else:
        sizes = torch.cat([tiling.sizes() for tiling in tilings])
        kept = _keep_weighted(all_means, sizes, ratio, max_drop)

    masks: Masks = {}
    unit_counts = [len(tiling) for tiling in tilings]
    kept_by_tensor = torch.split(kept, unit_counts)
    for (name, score), tiling, kept_units in zip(
        scores.items(), tilings, kept_by_tensor, strict=True
    ):
        masks[name] = tiling.expand(kept_units, tuple(score.shape))

    return masks


def _have_equal_units(tilings: Collection[Tiling]) -> bool:
    """Whether all units of all tensors have the same number of weights."""
    sizes = {tiling.equal_size for tiling in tilings}
    return len(sizes) == 1 and None not in sizes


def _keep_weighted(means: Tensor, sizes: Tensor, ratio: float, max_drop: int) -> Tensor:
    """Drop units of different sizes, lowest mean first.

    So many units go that the number of their weights is nearest to the share `ratio` of all.

    Args:
        means: the mean saliency of every unit, [units].
        sizes: the number of weights of every unit, int64 [units].
        ratio: the share of weights to drop, 0 to below 1.
        max_drop: how many units may go at most.

    Returns:
        A boolean tensor [units], False for the dropped units.
    """
    order = means.argsort(stable=True)

    # How many weights go with the first 0, 1, 2, ... units.
    none = torch.zeros(1, dtype=torch.int64)
    dropped_weights = torch.cat([none, sizes[order].cumsum(0)])

    target = ratio * int(dropped_weights[-1])
    nearest = int((dropped_weights.double() - target).abs().argmin())
    drop = min(nearest, max_drop)

    kept = torch.ones(len(means), dtype=torch.bool)
    kept[order[:drop]] = False
    return kept


def _rank_in_rows(score: Tensor, ratio: float) -> Tensor:
    """Drop the share `ratio` of every row of a tensor [out, ...]; at least one weight stays."""
    rows = score.flatten(1).contiguous()
    drop = min(round(ratio * rows.shape[1]), rows.shape[1] - 1)
    return keep_largest(rows, drop).view(score.shape)
