"""Regularisers of sparse training, which make units small before they are removed."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from prunelab.pruning.structured.groups import Group

SelectedUnits = Sequence[
    tuple[Group, Sequence[int]]
]  # every group with the units that a cut would take now
Penalty = Callable[
    [float], Tensor
]  # progress through the training, 0 to below 1, to a term of the loss


def scales(doomed: SelectedUnits, strength: float) -> Penalty:
    """L1 on the scales of all norms within the groups (network slimming, Liu et al. 2017)."""
    norms = [
        m for group, _ in doomed for m in group.members if isinstance(m.module, nn.BatchNorm2d)
    ]
    return lambda progress: (
        strength * _sum([m.weight[m.indices.to(m.weight.device)].abs().sum() for m in norms])
    )


def group_lasso(doomed: SelectedUnits, strength: float) -> Penalty:
    """The L2 norm of all weights that make a unit, times the root of its size, summed over units (Wen et al. 2016).

    The root keeps large units from being spared less than small ones (Yuan & Lin 2006).
    """
    return lambda progress: strength * _sum([_norms(group).sum() for group, _ in doomed])


def growing_l2(doomed: SelectedUnits, strength: float) -> Penalty:
    """A weight decay on the doomed units alone that rises linearly from 0 to `strength` (GReg-1, Wang et al. 2021).

    Which units are doomed is settled once, before the training.
    """
    chosen = [
        (member.weight, member.chosen(units)) for group, units in doomed for member in group.filters
    ]
    return lambda progress: (
        strength
        * progress
        / 2
        * _sum([w[indices.to(w.device)].square().sum() for w, indices in chosen])
    )


def _sum(terms: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum() if terms else torch.zeros(())


def _norms(group: Group) -> Tensor:
    """sqrt(size) x ||weights||_2 of every unit of a group."""
    weight = group.filters[0].weight
    squares, size = torch.zeros(group.count, device=weight.device), 0
    for member in group.filters:
        weights = member.weight
        per_output = weights.flatten(1).square().sum(1)[member.indices.to(weight.device)]
        squares = squares.index_add(0, member.units.to(weight.device), per_output.float())
        size += weights[0].numel() * len(member.indices) // group.count
    # The root of zero has no gradient: a unit that has vanished stays where it is.
    return size**0.5 * squares.clamp_min(1e-12).sqrt()
