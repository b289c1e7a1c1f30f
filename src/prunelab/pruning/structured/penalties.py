"""Regularisers of sparse training: terms of the loss that make units small before their removal."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from prunelab.pruning.structured.groups import Group
from prunelab.runtime import exact

# Groups with the units of each that pruning would remove now.
SelectedUnits = Sequence[tuple[Group, Sequence[int]]]

# Maps the progress of the training, 0 to below 1, to a term of the loss. On a GPU the progress is a
# scalar tensor, and all operations stay on the device: see `Callback`.
Penalty = Callable[[float | Tensor], Tensor]


def scales(selected: SelectedUnits, strength: float) -> Penalty:
    """strength x sum of |scale| over the batch norms within the groups.

    This is network slimming (Liu et al. 2017). It acts on all units of the groups.
    """
    norms = []
    for group, _ in selected:
        for member in group.members:
            if isinstance(member.module, _BatchNorm) and member.module.affine:
                norms.append((member, member.indices.to(member.weight.device)))

    def penalty(progress: float | Tensor) -> Tensor:
        terms = []
        for norm, indices in norms:
            terms.append(norm.weight[indices].abs().sum())
        return strength * _sum(terms)

    return penalty


def group_lasso(selected: SelectedUnits, strength: float) -> Penalty:
    """strength x sum over units of sqrt(size) x L2 norm of the weights that produce the unit.

    This is structured sparsity learning (Wen et al. 2016). The root of the unit's size keeps large
    units from being penalised less than small ones (Yuan & Lin 2006). It acts on all units of the
    groups.
    """

    groups = [_PlacedGroup(group) for group, _ in selected]

    def penalty(progress: float | Tensor) -> Tensor:
        norms = []
        for group in groups:
            norms.append(group.scaled_norms().sum())
        return strength * _sum(norms)

    return penalty


def growing_l2(selected: SelectedUnits, strength: float) -> Penalty:
    """strength x progress / 2 x sum of squared weights of the selected units alone.

    This is a weight decay that rises linearly from 0 to `strength` (GReg-1, Wang et al. 2021). The
    units are selected once, before the training.
    """
    decayed = []
    for group, units in selected:
        for member in group.filters:
            decayed.append((member.weight, member.indices_of(units).to(member.weight.device)))

    def penalty(progress: float | Tensor) -> Tensor:
        squares = []
        for weight, indices in decayed:
            squares.append(weight[indices].square().sum())
        return strength * progress / 2 * _sum(squares)

    return penalty


def _sum(terms: Sequence[Tensor]) -> Tensor:
    if not terms:
        return torch.zeros(())
    return torch.stack(list(terms)).sum()


class _PlacedGroup:
    """A group with the indices of its members on the device of its weights."""

    def __init__(self, group: Group) -> None:
        self._device = group.filters[0].weight.device
        self._count = group.count
        self._size = 0
        self._filters = []
        for member in group.filters:
            indices, unit_ids = member.indices.to(self._device), member.unit_ids.to(self._device)
            self._filters.append((member, indices, unit_ids))
            self._size += member.weight[0].numel() * len(member.indices) // group.count

    def scaled_norms(self) -> Tensor:
        """sqrt(size) x L2 norm of the weights of every unit, [count]."""
        squares = torch.zeros(self._count, device=self._device)
        for member, indices, unit_ids in self._filters:
            output_squares = member.weight.flatten(1).square().sum(1)[indices]
            squares = squares.index_add(0, unit_ids, output_squares.float())

        # The root has no gradient at zero. Clamping leaves a unit that has vanished at zero.
        norms = exact.sqrt(squares.clamp_min(1e-12))
        root_of_size: float = self._size**0.5
        return root_of_size * norms
