"""Remove attention heads (Michel et al. 2019) and feed-forward units of an encoder for real."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from prunelab.errors import Refused
from prunelab.models.bert import Bert
from prunelab.models.resize import set_widths


@dataclass(frozen=True)
class Member:
    """A linear layer's share of a group: which rows (`dim` 0, biases too) or columns (1) belong to each unit.

    `indices` is int64 [units, k].
    """

    module: nn.Linear
    dim: Literal[0, 1]
    indices: Tensor


@dataclass(frozen=True)
class Group:
    """Units that can go one by one, each out of all members at once.

    `name` is that of the layer whose outputs the units are; `owner` counts the heads, None for feed-forward units.
    After a removal the indices are no longer those of the network: list its groups anew.
    """

    name: str
    kind: Literal["head", "hidden"]
    units: int
    members: list[Member]
    owner: nn.Module | None = None


def groups(model: nn.Module) -> list[Group]:
    """Two groups for every layer of an encoder, from the first: its heads and its feed-forward units.

    The width of the residual stream, to which all layers add, stays. Networks of other kinds have none.
    """
    if not isinstance(model, Bert):
        return []
    names = {module: name for name, module in model.named_modules()}
    layers: Any = model.encoder.get_submodule("encoder.layer")
    return [group for layer in layers for group in (_heads(layer, names), _hidden(layer, names))]


def remove(group: Group, units: Sequence[int]) -> None:
    """Take units out of all layers of their group, in place; gradients and optimiser states go with the old tensors.

    Raises:
        Refused: if a unit does not exist, or none would stay.
    """
    gone = set(units)
    if unknown := sorted(unit for unit in gone if not 0 <= unit < group.units):
        raise Refused(f"{group.name}: no {group.kind} {unknown}; valid: 0 to {group.units - 1}")
    if len(gone) == group.units:
        raise Refused(f"{group.name}: all {group.units} would go; at least one {group.kind} must stay")
    kept = torch.tensor([unit for unit in range(group.units) if unit not in gone])
    for member in group.members:
        _keep(member.module, member.dim, member.indices[kept].flatten())
        set_widths(member.module)
    if group.owner is not None:
        set_widths(group.owner)


def zero(group: Group, units: Sequence[int]) -> None:
    """Silence units in place, the network keeping its size: what it then computes is what `remove` must leave."""
    for member in group.members:
        chosen = member.indices[list(units)].flatten().to(member.module.weight.device)
        with torch.no_grad():
            member.module.weight.index_fill_(member.dim, chosen, 0)
            if member.dim == 0 and member.module.bias is not None:
                member.module.bias.index_fill_(0, chosen, 0)


def _heads(layer: Any, names: dict[nn.Module, str]) -> Group:
    attention = layer.attention.self
    size, rows = int(attention.attention_head_size), attention.query.out_features
    indices = torch.arange(rows).view(-1, size)
    members = [Member(getattr(attention, name), 0, indices) for name in ("query", "key", "value")]
    members.append(Member(layer.attention.output.dense, 1, indices))
    return Group(names[attention], "head", rows // size, members, owner=attention)


def _hidden(layer: Any, names: dict[nn.Module, str]) -> Group:
    inner = layer.intermediate.dense
    indices = torch.arange(inner.out_features).view(-1, 1)
    members = [Member(inner, 0, indices), Member(layer.output.dense, 1, indices)]
    return Group(names[inner], "hidden", inner.out_features, members)


def _keep(linear: nn.Linear, dim: int, kept: Tensor) -> None:
    linear.weight = _selected(linear.weight, dim, kept)
    if dim == 0 and linear.bias is not None:
        linear.bias = _selected(linear.bias, 0, kept)


def _selected(tensor: Tensor, dim: int, kept: Tensor) -> nn.Parameter:
    chosen = tensor.detach().index_select(dim, kept.to(tensor.device))
    return nn.Parameter(chosen, requires_grad=tensor.requires_grad)
