"""Remove channels for real. The only file that imports torch_pruning, which follows a channel through the network."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from prunelab.pruning.masks import Saliency


@dataclass(frozen=True)
class Width:
    """A set of layers that share their output channels: how many there were and how many stay."""

    layers: tuple[str, ...]
    before: int
    after: int


def target_width(channels: int, ratio: float, round_to: int) -> int:
    """How many of `channels` stay: the multiple of `round_to` nearest to the exact share, and never none."""
    if ratio == 0:  # nothing asked, nothing done, whatever the rounding
        return channels
    multiple = round((1 - ratio) * channels / round_to) * round_to
    return min(channels, max(multiple, round_to))


def remove(
    model: nn.Module, saliency: Saliency, *, ratio: float, round_to: int, fixed: Sequence[nn.Module], example: Tensor
) -> list[Width]:
    """Take the least salient `ratio` of the channels out of every layer, in place; returns the widths.

    A channel's saliency is the sum over the weights of its filters, in every layer that shares it. Layers in `fixed`
    keep their output channels. `example` is one input, [1, C, H, W], by which the network is traced.

    Raises:
        AssertionError: if the thinner network computes anything else than the full one with those channels zeroed.
    """
    names = {module: name for name, module in model.named_modules()}
    graph, groups = _groups(model, fixed, example)
    plans = [_plan(group, graph, names, saliency, ratio, round_to) for group in groups]
    masked = _zeroed_copy(model, [(group, dropped) for group, dropped, _ in plans], graph, names)
    for group, dropped, _ in plans:
        if dropped:
            group.prune(dropped)
    _assert_same_outputs(masked, model, example)
    return [_measured(width, model) for *_, width in plans]


def prunable(model: nn.Module, fixed: Sequence[nn.Module], example: Tensor) -> dict[str, int]:
    """How many channels every set of coupled layers has, by the name of its leading layer."""
    names = {module: name for name, module in model.named_modules()}
    return {names[group[0].dep.target.module]: len(group[0].idxs) for group in _groups(model, fixed, example)[1]}


def target_widths(channels: dict[str, int], ratio: float, round_to: int) -> list[Width]:
    """The widths that `remove` would leave, whatever the saliency."""
    return [Width((name,), count, target_width(count, ratio, round_to)) for name, count in channels.items()]


def _groups(model: nn.Module, fixed: Sequence[nn.Module], example: Tensor) -> tuple[tp.DependencyGraph, list]:
    """Every set of layers that share their output channels, each led by a layer that is free to lose some."""
    graph = tp.DependencyGraph().build_dependency(model.eval(), example)
    return graph, list(graph.get_all_groups(ignored_layers=list(fixed), root_module_types=[nn.Conv2d, nn.Linear]))


def _plan(group, graph, names, saliency: Saliency, ratio: float, round_to: int) -> tuple[Any, list[int], Width]:
    """One group of coupled layers, the channels to drop from it, and the resulting width."""
    filters = [item for item in _outputs(group, graph) if isinstance(item.dep.target.module, nn.Conv2d | nn.Linear)]
    scores = torch.zeros(len(group[0].idxs), dtype=torch.float64)
    for item in filters:
        weight_saliency = saliency[f"{names[item.dep.target.module]}.weight"]
        scores.index_add_(0, torch.tensor(item.root_idxs), weight_saliency.double().flatten(1).sum(1)[item.idxs])
    width = target_width(len(scores), ratio, round_to)
    dropped = scores.argsort(stable=True)[: len(scores) - width].sort().values.tolist()
    layers = tuple(names[item.dep.target.module] for item in filters)
    return group, dropped, Width(layers, before=len(scores), after=width)


def _measured(planned: Width, model: nn.Module) -> Width:
    """The width that its layers really have now."""
    (after,) = {model.get_parameter(f"{layer}.weight").shape[0] for layer in planned.layers}
    return Width(planned.layers, planned.before, after)


def _outputs(group, graph) -> list:
    """The members of a group that lose output channels (as opposed to reading the channels of others)."""
    return [item for item in group if graph.is_out_channel_pruning_fn(item.dep.handler)]


def _zeroed_copy(model: nn.Module, plans, graph, names) -> nn.Module:
    """The full network with all that makes a dropped channel set to zero, norms included."""
    copy = deepcopy(model)
    for group, dropped in plans:
        gone = set(dropped)
        for item in _outputs(group, graph):
            indices = [index for index, root in zip(item.idxs, item.root_idxs, strict=True) if root in gone]
            name = names.get(item.dep.target.module)  # None for the graph's own nodes, such as an addition
            parameters = copy.get_submodule(name).parameters(recurse=False) if name is not None else ()
            for parameter in parameters:
                parameter.data[indices] = 0
    return copy


def _assert_same_outputs(masked: nn.Module, thin: nn.Module, example: Tensor) -> None:
    # In double precision, where a difference in the order of summation cannot hide or fake a real one.
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, *example.shape[1:], generator=generator, dtype=torch.float64)
    with torch.no_grad():
        expected, got = (deepcopy(net).double().eval()(images) for net in (masked, thin))
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
