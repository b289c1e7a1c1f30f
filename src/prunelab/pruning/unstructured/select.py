"""Masks over weights: choose them from a saliency, apply them, hold them, verify them. True keeps a weight."""

from collections.abc import Mapping
from enum import Enum, auto
from math import prod

import torch
from torch import Tensor

from prunelab.config.params import Prune
from prunelab.core.errors import InputError
from prunelab.pruning.unstructured.granularity import (
    WEIGHT,
    Granularity,
    achievable,
    choices,
    why_not,
)
from prunelab.pruning.unstructured.ranking import Saliency, keep_largest
from prunelab.pruning.unstructured.tiling import Shape, Tiling
from prunelab.training.masking import Masks


class Scope(Enum):
    """Which units compete: those of all tensors, of one tensor, or single weights of one row, that is one output."""

    GLOBAL = auto()
    LAYERWISE = auto()
    ROWWISE = auto()


def choose(
    saliency: Saliency,
    granularity: Granularity,
    scope: Scope,
    ratio: float,
    settings: Prune,
    own_ratios: Mapping[str, float] | None = None,
) -> Masks:
    """Drop the share `ratio` of the weights, in units of the granularity, least mean saliency first.

    The share is of the weights that the granularity applies to, and is met to within half of one unit (in every layer,
    or row, where these compete by themselves, and none of which loses all its units); N:M and patterns choose within
    groups, so for them the scope is LAYERWISE and the share what `achievable` says. Tensors named in `own_ratios` lose
    that share of their own weights, whatever the scope, and the others share `ratio`.

    Tensors that the granularity does not apply to, or whose own ratio is 0, are left out: no mask keeps all of them.

    Raises:
        InputError: if a saliency is not a number or all of it is zero, or a ratio would remove nothing, or everything, of
            what it is about.
    """
    assert scope is Scope.LAYERWISE or not granularity.select, (
        "a choice within groups is no ranking of layers"
    )
    assert scope is not Scope.ROWWISE or granularity is WEIGHT, (
        "only single weights are ranked within a row"
    )
    own = {name: share for name, share in (own_ratios or {}).items() if name in saliency}
    shapes = {name: tuple(score.shape) for name, score in saliency.items()}
    scores = {name: saliency[name] for name in concerned(shapes, granularity, ratio, settings, own)}
    problems = [
        f"the saliency of {name} is not a number"
        for name, score in scores.items()
        if score.isnan().any()
    ]
    if not any(score.any() for score in scores.values()):
        problems.append("all saliencies are zero: this criterion can tell nothing of this network")
    if problems:
        raise InputError(problems)
    ratios = {name: own.get(name, ratio) for name in scores}
    if granularity.select:
        return granularity.select(scores, ratios, settings)
    if scope is Scope.ROWWISE:
        return {name: _keep_in_rows(score, ratios[name]) for name, score in scores.items()}
    alone = scores if scope is Scope.LAYERWISE else scores.keys() & own.keys()
    parts = [[name] for name in scores if name in alone] + [
        [name for name in scores if name not in alone]
    ]
    masks: Masks = {}
    for names in filter(None, parts):
        tilings = {name: _tiling(granularity, scores[name], settings) for name in names}
        masks |= _keep_units(
            {name: scores[name] for name in names},
            tilings,
            ratios[names[0]],
            alone=names[0] in alone,
        )
    return {name: masks[name] for name in scores}


def concerned(
    shapes: Mapping[str, Shape],
    granularity: Granularity,
    ratio: float,
    settings: Prune,
    own: Mapping[str, float],
) -> list[str]:
    """The tensors that lose something, by name; `own` names those with a ratio of their own.

    Raises:
        InputError: if a ratio would remove nothing, or everything, of what it is about.
    """
    problems: list[str] = []
    usable = {
        n: shape
        for n, shape in shapes.items()
        if own.get(n, 1) > 0 and granularity.applies(shape, settings)
    }
    shared = {name: shape for name, shape in usable.items() if name not in own}
    if shared or not usable:
        problems += filter(None, [why_not(shared, granularity, ratio, settings)])
    for name in usable.keys() & own.keys():
        if problem := why_not({name: usable[name]}, granularity, own[name], settings):
            problems.append(f"{name}: {problem}")
    if problems:
        raise InputError(problems)
    return list(usable)


def expected(
    shapes: Mapping[str, Shape],
    granularity: Granularity,
    scope: Scope,
    ratio: float,
    settings: Prune,
    own: Mapping[str, float],
) -> dict[str, float]:
    """How many weights `choose` will drop of every tensor: about so many each, where tensors compete.

    Raises:
        InputError: as `choose` does, but for what the saliency tells.
    """
    dropped = {}
    for name in concerned(shapes, granularity, ratio, settings, own):
        shape, share = shapes[name], own.get(name, ratio)
        units = prod(shape[1:]) if scope is Scope.ROWWISE else choices(granularity, shape, settings)
        if granularity.select:
            share = achievable({name: shape}, granularity, share, settings)
        elif scope is not Scope.GLOBAL or name in own:
            share = min(round(share * units), units - 1) / units
        dropped[name] = share * prod(shape)
    return dropped


def _tiling(granularity: Granularity, score: Tensor, settings: Prune) -> Tiling:
    tiling = granularity.tiling(tuple(score.shape), settings)
    assert tiling is not None, "asked of tensors that it applies to"
    return tiling


def _keep_units(
    scores: Saliency, tilings: Mapping[str, Tiling], ratio: float, *, alone: bool
) -> Masks:
    """Rank the units of these tensors together and drop those of least mean saliency; one `alone` keeps a unit."""
    means = [tilings[name].means(score) for name, score in scores.items()]
    edges = {
        (tiling.rows % tiling.tall, tiling.columns % tiling.wide) for tiling in tilings.values()
    }
    if edges == {(0, 0)} and len({tiling.tall * tiling.wide for tiling in tilings.values()}) == 1:
        kept = _keep_alike(torch.cat(means), ratio, least=int(alone))
    else:
        sizes = torch.cat([tiling.sizes() for tiling in tilings.values()])
        kept = _keep_sized(torch.cat(means), sizes, ratio, least=int(alone))
    parts = kept.split([len(part) for part in means])
    return {
        name: tilings[name].widen(part, tuple(score.shape))
        for (name, score), part in zip(scores.items(), parts, strict=True)
    }


def _keep_alike(means: Tensor, ratio: float, *, least: int) -> Tensor:
    return keep_largest(means.unsqueeze(0), min(round(ratio * len(means)), len(means) - least))[0]


def _keep_sized(means: Tensor, sizes: Tensor, ratio: float, *, least: int) -> Tensor:
    """Drop as many units, in order, as bring the number of dropped weights nearest to the share."""
    order = means.argsort(stable=True)
    dropped = torch.cat(
        [torch.zeros(1, dtype=torch.int64), sizes[order].cumsum(0)]
    )  # weights, by number of units
    nearest = min(
        int((dropped.double() - ratio * int(dropped[-1])).abs().argmin()), len(means) - least
    )
    kept = torch.ones(len(means), dtype=torch.bool)
    kept[order[:nearest]] = False
    return kept


def _keep_in_rows(score: Tensor, ratio: float) -> Tensor:
    rows = score.flatten(1).contiguous()
    return keep_largest(rows, min(round(ratio * rows.shape[1]), rows.shape[1] - 1)).view(
        score.shape
    )


def removed_share(masks: Masks) -> float:
    """The share of their weights that masks drop; 0 without masks."""
    total = sum(mask.numel() for mask in masks.values())
    return 1 - sum(int(mask.count_nonzero()) for mask in masks.values()) / total if total else 0.0
