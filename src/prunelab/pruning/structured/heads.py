"""Find groups of attention heads, beside channels.

A head is the queries, keys and values of the same rows, and the columns of the projection behind
them; `models.attention` says where they lie. See `attention` for text encoders, whose heads are
groups of their own kind.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prunelab.models.attention import PARTS, Layout, layout_of
from prunelab.pruning.structured.groups import Group, KeptLayers, Member


def find_groups(model: nn.Module, fixed_layers: Sequence[nn.Module]) -> list[Group]:
    """The heads of every attention of a network that can lose heads, from the last to the first."""
    groups = []
    for name, module in model.named_modules():
        layout = layout_of(module)
        if layout is None:
            continue

        # torch's attention is one layer, whose outputs are those of its projection.
        is_fixed = module.get_submodule(layout.joint) in fixed_layers
        if not is_fixed or layout.joint == "":
            group = _group(name, module, layout)
            if group.count > 1:
                groups.append(group)
    return groups[::-1]


def _group(name: str, attention: nn.Module, layout: Layout) -> Group:
    count: int = getattr(attention, layout.number)
    projection: Any = attention.get_submodule(layout.projection)
    width = int(projection.in_features)
    rows, columns = torch.arange(PARTS * width), torch.arange(width)
    heads = columns // (width // count)
    single = torch.arange(count)

    def member(layer: str, loses_outputs: bool, indices: Tensor, unit_ids: Tensor) -> Member:
        path = ".".join(filter(None, (name, layer)))
        module = attention.get_submodule(layer)
        return Member(path, module, loses_outputs, indices, unit_ids)

    members = [
        member(layout.joint, True, rows, heads.repeat(PARTS)),
        member(layout.projection, False, columns, heads),
        *[member(layer, True, single, single) for layer in layout.rows],
        *[member(layer, False, single, single) for layer in layout.columns],
    ]
    return Group(members[0].layer, "head", count, members)


def without(kept: Sequence[KeptLayers], groups: Sequence[Group]) -> list[KeptLayers]:
    """What is kept besides the layers whose heads may go: these keep no single channel, either."""
    free = {layer for group in groups for layer in group.layers}
    rest = []
    for layers in kept:
        names = tuple(name for name in layers.layers if name not in free)
        if names:
            rest.append(KeptLayers(names, layers.reason))
    return rest
