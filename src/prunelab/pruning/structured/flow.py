"""ChannelFlow: which channels of which layers must go together, and which must stay, and why.

A node is one output or one input channel of a layer. Following a network (see `tracing`) links
nodes: an addition links the channels that it adds. The connected parts are the units of pruning.
Nothing here knows torch's functions or changes a network.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CONSTANT = 0  # the label of elements that no layer of channels produces


@dataclass(frozen=True)
class Block:
    """The nodes of one side of a layer: its outputs, or its inputs within one group of filters."""

    layer: str
    outputs: bool
    nodes: Tensor


class ChannelFlow:
    """The graph of channels, which grows while a network is followed.

    Labels are int64 tensors of any shape that hold nodes, or `CONSTANT`.
    """

    def __init__(self) -> None:
        self._blocks: dict[tuple[str, bool], Block] = {}
        self._count = 1  # node 0 is CONSTANT
        self._links: list[Tensor] = []
        self._kept: list[tuple[Tensor, str]] = []

    @property
    def blocks(self) -> list[Block]:
        """All blocks, in the order in which the network uses their layers first."""
        return list(self._blocks.values())

    def nodes(self, layer: str, count: int, *, outputs: bool) -> Tensor:
        """The nodes of a layer's side, [count]. They are the same whenever the layer is used."""
        key = layer, outputs
        if key not in self._blocks:
            nodes = torch.arange(self._count, self._count + count)
            self._blocks[key] = Block(layer, outputs, nodes)
            self._count += count
        return self._blocks[key].nodes

    def link(self, first: Tensor, second: Tensor, reason: str) -> None:
        """Let the nodes of two tensors of labels, of equal shape, go together element by element.

        A node beside `CONSTANT` must stay, for the reason given.
        """
        first, second = first.reshape(-1), second.reshape(-1)
        differs = first != second
        first, second = first[differs], second[differs]

        constant = (first == CONSTANT) | (second == CONSTANT)
        self.keep(torch.maximum(first, second)[constant], reason)

        pairs = torch.stack((first[~constant], second[~constant]))
        if pairs.numel():
            self._links.append(torch.unique(pairs, dim=1))

    def keep(self, labels: Tensor, reason: str) -> None:
        """Let the nodes in `labels` stay. The first reason of a unit is the one that is named."""
        nodes = torch.unique(labels)
        nodes = nodes[nodes != CONSTANT]
        if len(nodes):
            self._kept.append((nodes, reason))

    def units(self) -> Tensor:
        """The unit of every node: the smallest node that it is linked with, int64 [nodes]."""
        units = torch.arange(self._count)
        if not self._links:
            return units

        first, second = torch.cat(self._links, dim=1)
        while True:
            before = units
            low = torch.minimum(units[first], units[second])
            high = torch.maximum(units[first], units[second])
            units = units.scatter_reduce(0, high, low, "amin")
            units = units[units]
            if torch.equal(units, before):
                return units

    def reasons(self, units: Tensor) -> dict[int, str]:
        """Why units must stay, by unit; the others may go."""
        reasons: dict[int, str] = {}
        for nodes, reason in self._kept:
            for unit in torch.unique(units[nodes]).tolist():
                reasons.setdefault(unit, reason)
        return reasons


def constant_along(labels: Tensor, dim: int) -> bool:
    """Whether labels do not depend on the position in a dimension, as `compact` finds out."""
    return labels.shape[dim] == 1 or labels.stride(dim) == 0


def compact(labels: Tensor) -> Tensor:
    """The same labels, with a stride of 0 in every dimension that they do not depend on."""
    shape = labels.shape
    for dim in range(labels.dim()):
        if labels.shape[dim] > 1:
            start = labels.narrow(dim, 0, 1)
            if labels.stride(dim) == 0 or bool((labels == start).all()):
                labels = start
    return labels.expand(shape)


def without_repetition(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Labels of one shape, reduced to the positions where any of them depends on the position."""
    reduced = list(tensors)
    for dim in range(reduced[0].dim()):
        if all(constant_along(labels, dim) for labels in reduced):
            reduced = [labels.narrow(dim, 0, min(1, labels.shape[dim])) for labels in reduced]
    return reduced
