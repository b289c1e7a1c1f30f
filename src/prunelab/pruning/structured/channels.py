"""Find groups of channels and remove their units.

Only this file may import torch_pruning, which traces how channels flow through a network.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from prunelab.pruning.structured.groups import Group, Member

if TYPE_CHECKING:
    import torch_pruning as tp


def find_groups(
    model: nn.Module, fixed_layers: Sequence[nn.Module], example_input: Tensor
) -> list[Group]:
    """Every group of coupled layers, found by tracing the network once. Tracing is slow.

    Layers in `fixed_layers` keep their output channels. `example_input` is one input,
    [1, C, H, W].
    """
    import torch_pruning as tp  # slow to import

    # Some parameters take part in a group without a module of their own.
    names: dict[Any, str] = {module: name for name, module in model.named_modules()}
    names |= {parameter: name for name, parameter in model.named_parameters()}

    graph = tp.DependencyGraph().build_dependency(model.eval(), example_input, verbose=False)
    traced_groups = graph.get_all_groups(
        ignored_layers=list(fixed_layers), root_module_types=[nn.Conv2d, nn.Linear]
    )
    return [_group(traced_group, graph, names) for traced_group in traced_groups]


def _group(traced_group: "tp.Group", graph: "tp.DependencyGraph", names: dict[Any, str]) -> Group:
    members = []
    for item in traced_group:
        module = item.dep.target.module
        if module not in names:
            continue  # a node of the graph alone, such as an addition

        loses_outputs = graph.is_out_channel_pruning_fn(item.dep.handler)
        indices, unit_ids = torch.tensor(item.idxs), torch.tensor(item.root_idxs)
        members.append(Member(names[module], module, loses_outputs, indices, unit_ids))

    return Group(
        name=members[0].layer,
        kind="channel",
        count=len(traced_group[0].idxs),
        members=members,
        remove=lambda units: traced_group.prune(list(units)),
    )


def remove_units(
    model: nn.Module,
    groups: Sequence[Group],
    dropped: Sequence[list[int]],
    example_input: Tensor,
) -> None:
    """Take the units `dropped[i]` out of every group `groups[i]`, in place.

    Raises:
        AssertionError: if the smaller network computes anything else than the full network with
            those units set to zero.
    """
    zeroed = zero_units(deepcopy(model), groups, dropped)
    for group, units in zip(groups, dropped, strict=True):
        if units:
            group.remove(units)

    _assert_same_outputs(zeroed, model, example_input)


def zero_units(
    model: nn.Module, groups: Sequence[Group], dropped: Sequence[Sequence[int]]
) -> nn.Module:
    """Set all parameters of dropped units to zero, those of norms included.

    The network then computes what it would without these units. `model` may be a copy of the
    network that the groups were found in.
    """
    modules = dict(model.named_modules())
    for group, units in zip(groups, dropped, strict=True):
        for member in group.members:
            if not member.loses_outputs or member.layer not in modules:
                continue

            indices = member.indices_of(units)
            for parameter in modules[member.layer].parameters(recurse=False):
                parameter.data[indices.to(parameter.device)] = 0

    return model


def _assert_same_outputs(zeroed: nn.Module, pruned: nn.Module, example_input: Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = example_input
    if example_input.is_floating_point():
        shape = (4, *example_input.shape[1:])
        inputs = torch.randn(shape, generator=generator, dtype=torch.float64)

    # In double precision another order of summation can neither hide nor fake a difference.
    with torch.no_grad():
        expected = deepcopy(zeroed).double().eval()(inputs)
        actual = deepcopy(pruned).double().eval()(inputs)

    # torch.testing would import a compiler to say the same.
    same = actual.shape == expected.shape and torch.allclose(actual, expected, rtol=1e-9, atol=1e-9)
    assert same, "the smaller network computes something else than the full one with zeroed units"
