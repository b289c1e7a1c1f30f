"""Attention heads (Michel et al. 2019) and feed-forward units of an encoder as groups that can be removed for real."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from prunelab.models.bert import Bert
from prunelab.models.resize import set_widths
from prunelab.pruning.structured.groups import Group, Member


def find(model: nn.Module) -> list[Group]:
    """Two groups for every layer of an encoder, from the first: its heads and its feed-forward units.

    The width of the residual stream, to which all layers add, stays. Networks of other kinds have none.
    """
    if not isinstance(model, Bert):
        return []
    names = {module: name for name, module in model.named_modules()}
    layers: Any = model.encoder.get_submodule("encoder.layer")
    return [group for layer in layers for group in (_heads(layer, names), _hidden(layer, names))]


def _heads(layer: Any, names: dict[nn.Module, str]) -> Group:
    attention = layer.attention.self
    count = attention.query.out_features // int(attention.attention_head_size)
    inner = [attention.query, attention.key, attention.value]
    return _group(
        names[attention], "head", count, inner, layer.attention.output.dense, names, owner=attention
    )


def _hidden(layer: Any, names: dict[nn.Module, str]) -> Group:
    inner = layer.intermediate.dense
    return _group(names[inner], "hidden", inner.out_features, [inner], layer.output.dense, names)


def _group(
    name: str,
    kind: str,
    count: int,
    makers: Sequence[nn.Linear],
    reader: nn.Linear,
    names: dict[nn.Module, str],
    owner: nn.Module | None = None,
) -> Group:
    """Units whose rows lie in the `makers` and whose columns in the `reader`; `owner` counts heads."""
    indices = torch.arange(reader.in_features)
    units = indices // (reader.in_features // count)
    members = [Member(names[layer], layer, True, indices, units) for layer in makers]
    members.append(Member(names[reader], reader, False, indices, units))
    return Group(name, kind, count, members, partial(_remove, members, count, owner))


def _remove(
    members: Sequence[Member], count: int, owner: nn.Module | None, gone: Sequence[int]
) -> None:
    """Take units out of all members, in place; afterwards the groups must be found anew."""
    kept = sorted(set(range(count)) - set(gone))
    assert kept, "at least one unit stays"
    for member in members:
        linear, dim = member.module, 0 if member.outputs else 1
        assert isinstance(linear, nn.Linear)
        chosen = member.chosen(kept)
        linear.weight = _selected(linear.weight, dim, chosen)
        if member.outputs and linear.bias is not None:
            linear.bias = _selected(linear.bias, 0, chosen)
        set_widths(linear)
    if owner is not None:
        set_widths(owner)


def _selected(tensor: Tensor, dim: int, kept: Tensor) -> nn.Parameter:
    chosen = tensor.detach().index_select(dim, kept.to(tensor.device))
    return nn.Parameter(chosen, requires_grad=tensor.requires_grad)
