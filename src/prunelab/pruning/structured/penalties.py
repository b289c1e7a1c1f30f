"""Regularisers of sparse training: terms of the loss that make units small before their removal."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from prunelab.pruning.structured.groups import Group

# Groups with the units of each that pruning would remove now.
SelectedUnits = Sequence[tuple[Group, Sequence[int]]]

# Maps the progress of the training, 0 to below 1, to a term of the loss.
Penalty = Callable[[float], Tensor]


def scales(selected: SelectedUnits, strength: float) -> Penalty:
    """strength x sum of |scale| over the batch norms within the groups.

    This is network slimming (Liu et al. 2017). It acts on all units of the groups.
    """
    norms = []
    for group, _ in selected:
        for member in group.members:
            if isinstance(member.module, nn.BatchNorm2d):
                norms.append(member)

    def penalty(progress: float) -> Tensor:
        terms = []
        for norm in norms:
            indices = norm.indices.to(norm.weight.device)
            terms.append(norm.weight[indices].abs().sum())
        return strength * _sum(terms)

    return penalty


def group_lasso(selected: SelectedUnits, strength: float) -> Penalty:
    """strength x sum over units of sqrt(size) x L2 norm of the weights that produce the unit.

    This is structured sparsity learning (Wen et al. 2016). The root of the unit's size keeps large
    units from being penalised less than small ones (Yuan & Lin 2006). It acts on all units of the
    groups.
    """

    def penalty(progress: float) -> Tensor:
        norms = []
        for group, _ in selected:
            norms.append(_scaled_norms(group).sum())
        return strength * _sum(norms)

    return penalty


def growing_l2(selected: SelectedUnits, strength: float) -> Penalty:
    """strength x progress / 2 x sum of squared weights of the selected units alone.

    This is a weight decay that rises linearly from 0 to `strength` (GReg-1, Wang et al. 2021). The
    units are selected once, before the training.
    """
    decayed = []
    for group, units in selected:
        decayed += [(member.weight, member.indices_of(units)) for member in group.filters]

    def penalty(progress: float) -> Tensor:
        squares = []
        for weight, indices in decayed:
            squares.append(weight[indices.to(weight.device)].square().sum())
        return strength * progress / 2 * _sum(squares)

    return penalty


def _sum(terms: Sequence[Tensor]) -> Tensor:
    if not terms:
        return torch.zeros(())
    return torch.stack(list(terms)).sum()


def _scaled_norms(group: Group) -> Tensor:
    """sqrt(size) x L2 norm of the weights of every unit of a group, [count]."""
    device = group.filters[0].weight.device
    squares = torch.zeros(group.count, device=device)
    size = 0

    for member in group.filters:
        weight = member.weight
        output_squares = weight.flatten(1).square().sum(1)[member.indices.to(device)]
        squares = squares.index_add(0, member.unit_ids.to(device), output_squares.float())
        size += weight[0].numel() * len(member.indices) // group.count

    # The root has no gradient at zero. Clamping leaves a unit that has vanished at zero.
    norms = squares.clamp_min(1e-12).sqrt()
    root_of_size: float = size**0.5
    return root_of_size * norms
