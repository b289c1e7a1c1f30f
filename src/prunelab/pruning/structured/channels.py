"""Remove channels for real. The only file that imports torch_pruning, which follows a channel through the network."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from prunelab.pruning.structured.groups import Group, Member


def find(model: nn.Module, fixed: Sequence[nn.Module], example: Tensor) -> list[Group]:
    """Every set of layers that lose their channels together, found by tracing the network once, which takes a while.

    Layers in `fixed` keep their output channels. `example` is one input, [1, C, H, W].
    """
    import torch_pruning as tp  # slow to import: only for those who use it

    names = {module: name for name, module in model.named_modules()}
    names |= {
        parameter: name for name, parameter in model.named_parameters()
    }  # some take part without a module
    graph = tp.DependencyGraph().build_dependency(model.eval(), example, verbose=False)
    found = graph.get_all_groups(
        ignored_layers=list(fixed), root_module_types=[nn.Conv2d, nn.Linear]
    )
    return [_group(group, graph, names) for group in found]


def _group(group: Any, graph: Any, names: dict[Any, str]) -> Group:
    members = [
        Member(
            names[item.dep.target.module],
            item.dep.target.module,
            graph.is_out_channel_pruning_fn(item.dep.handler),
            torch.tensor(item.idxs),
            torch.tensor(item.root_idxs),
        )
        for item in group
        if item.dep.target.module in names  # else one of the graph's own nodes, such as an addition
    ]
    return Group(
        name=members[0].layer,
        kind="channel",
        count=len(group[0].idxs),
        members=members,
        remove=lambda units: group.prune(list(units)),
    )


def remove(
    model: nn.Module,
    groups: Sequence[Group],
    dropped: Sequence[list[int]],
    example: Tensor,
) -> None:
    """Take the units `dropped` out of every group, in place.

    Raises:
        AssertionError: if the thinner network computes anything else than the full one with those units silenced.
    """
    silenced = silence(deepcopy(model), groups, dropped)
    for group, units in zip(groups, dropped, strict=True):
        if units:
            group.remove(units)
    _assert_same_outputs(silenced, model, example)


def silence(
    model: nn.Module, groups: Sequence[Group], dropped: Sequence[Sequence[int]]
) -> nn.Module:
    """Set all that makes a dropped unit to zero, norms included; `model` may be a copy of the one grouped."""
    modules = dict(model.named_modules())
    for group, units in zip(groups, dropped, strict=True):
        for member in group.members:
            if member.outputs and member.layer in modules:
                indices = member.chosen(units)
                for parameter in modules[member.layer].parameters(recurse=False):
                    parameter.data[indices.to(parameter.device)] = 0
    return model


def _assert_same_outputs(silenced: nn.Module, thin: nn.Module, example: Tensor) -> None:
    # In double precision, where a difference in the order of summation cannot hide or fake a real one.
    generator = torch.Generator().manual_seed(0)
    if example.is_floating_point():
        inputs = torch.randn(4, *example.shape[1:], generator=generator, dtype=torch.float64)
    else:
        inputs = example
    with torch.no_grad():
        expected, got = (deepcopy(net).double().eval()(inputs) for net in (silenced, thin))
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
