"""Find groups of attention heads in networks of timm, beside their channels.

A head is the queries, keys and values of the same rows, in one layer, and the columns of the
projection behind them. See `attention` for text encoders, whose heads are groups of their own kind.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from prunelab.models.resize import DISTANCES, has_heads
from prunelab.pruning.structured.groups import Group, KeptLayers, Member

PARTS = 3  # queries, keys, values


def find_groups(model: nn.Module, fixed_layers: Sequence[nn.Module]) -> list[Group]:
    """The heads of every attention of a network that can lose heads, from the last to the first."""
    groups = []
    for name, module in model.named_modules():
        if has_heads(module) and getattr(module, "qkv", None) not in fixed_layers:
            group = _group(name, module)
            if group.count > 1:
                groups.append(group)
    return groups[::-1]


def _group(name: str, attention: Any) -> Group:
    count, width = attention.num_heads, attention.proj.in_features
    rows, columns = torch.arange(PARTS * width), torch.arange(width)
    heads = columns // (width // count)

    members = [
        Member(f"{name}.qkv", attention.qkv, True, rows, heads.repeat(PARTS)),
        Member(f"{name}.proj", attention.proj, False, columns, heads),
    ]
    if DISTANCES in attention._parameters:
        members.append(Member(name, attention, False, torch.arange(count), torch.arange(count)))
    return Group(f"{name}.qkv", "head", count, members)


def without(kept: Sequence[KeptLayers], groups: Sequence[Group]) -> list[KeptLayers]:
    """What is kept besides the layers whose heads may go: these keep no single channel, either."""
    free = {layer for group in groups for layer in group.layers}
    rest = []
    for layers in kept:
        names = tuple(name for name in layers.layers if name not in free)
        if names:
            rest.append(KeptLayers(names, layers.reason))
    return rest
