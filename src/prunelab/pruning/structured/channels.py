"""Find groups of channels and remove their units."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunelab.core.errors import InputError
from prunelab.models.resize import (
    CONVOLUTIONS,
    TRANSPOSED_CONVOLUTIONS,
    is_depthwise,
    set_widths,
)
from prunelab.pruning.structured import heads
from prunelab.pruning.structured.groups import FoundGroups, Group, KeptLayers, Member
from prunelab.pruning.structured.tracing import Tracer

EMPTY_MODULE = nn.Module()  # what it has, every module has
# The layers whose outputs are channels.
FILTERS = (*CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS, nn.Linear)


def find_groups(
    model: nn.Module, fixed_layers: Sequence[nn.Module], example_input: Tensor
) -> FoundGroups:
    """Every group of coupled layers, found by following channels through one forward pass.

    Layers in `fixed_layers` keep their output channels; nothing is said about them. `example_input`
    is one input, [1, C, H, W]. A group whose removal would not equal zeroing it is kept, too.
    """
    tracer = Tracer(model.eval())
    example = example_input.clone()
    if example.is_floating_point():
        example.requires_grad_()  # so that there is an order even if all weights are frozen
    caches, attributes = _caches(model), _tensor_attributes(model)
    inputs = example.clone()  # a network may work on its inputs in place
    with torch.enable_grad(), tracer:
        output = model(inputs)
    for cache, content in caches:  # what the pass left there belongs to its graph of gradients
        cache.clear()
        cache.update(content)
    for module, key, tensor in attributes:
        setattr(module, key, tensor)
    units = _Units(tracer, model, fixed_layers, output)
    found = [*units.groups(), *heads.find_groups(model, fixed_layers)]
    divisible = [group for group in found if group.count > 1]
    groups, failing = _split_by_check(model, divisible, example_input)

    kept = heads.without(units.kept(), groups)
    indivisible = [group for group in found if group.count == 1]
    kept += _keep(indivisible, "they all depend on each other, or are one")
    kept += _keep(failing, "without some the network computes something else than with zeros")
    return FoundGroups(groups, kept)


def _caches(model: nn.Module) -> list[tuple[dict[Any, Any], dict[Any, Any]]]:
    """The mappings in which modules may remember tensors between passes, with their content."""
    caches = []
    for module in model.modules():
        for key, value in vars(module).items():
            if type(value) is dict and key not in vars(EMPTY_MODULE):
                caches.append((value, dict(value)))
    return caches


def _tensor_attributes(model: nn.Module) -> list[tuple[nn.Module, str, Tensor]]:
    """The tensors that modules keep besides parameters and buffers, as weight_norm does."""
    return [
        (module, key, value)
        for module in model.modules()
        for key, value in vars(module).items()
        if isinstance(value, Tensor)
    ]


def _keep(groups: Sequence[Group], reason: str) -> list[KeptLayers]:
    layers = dict.fromkeys(layer for group in reversed(groups) for layer in group.layers)
    if not layers:
        return []
    return [KeptLayers(tuple(layers), reason)]


def _backward_order(last: Any, producers: Mapping[Any, str]) -> list[str]:
    """The layers from the last to the first, each where the gradient first meets it."""
    order: dict[str, None] = {}
    visited = set()
    stack = [last]
    while stack:
        function = stack.pop()
        if function is None or function in visited:
            continue
        visited.add(function)

        for following in [function, *(following for following, _ in function.next_functions)]:
            if following in producers:
                order.setdefault(producers[following])
        stack += [following for following, _ in function.next_functions]
    return list(order)


class _Units:
    """The units of a flow, sorted by the layers that produce them."""

    def __init__(
        self, tracer: Tracer, model: nn.Module, fixed_layers: Sequence[nn.Module], output: Tensor
    ) -> None:
        self._modules = dict(model.named_modules())
        self._units = tracer.flow.units()
        self._reasons = tracer.flow.reasons(self._units)
        self._blocks = tracer.flow.blocks

        layers = _backward_order(output.grad_fn, tracer.producers)
        layers += [block.layer for block in reversed(self._blocks)]  # without a gradient
        self._order = {layer: place for place, layer in enumerate(dict.fromkeys(layers))}
        self._filters = [
            block
            for block in self._blocks
            if block.outputs and isinstance(self._modules[block.layer], FILTERS)
        ]

        # What must stay by the network's purpose: its outputs, and the layers that are fixed.
        fixed_nodes = [
            block.nodes for block in self._filters if self._modules[block.layer] in fixed_layers
        ]
        labels = tracer.labels(output)
        if labels is not None:
            fixed_nodes.append(labels.flatten())
        self._fixed: set[int] = set()
        for nodes in fixed_nodes:
            self._fixed.update(self._units[nodes].tolist())

    def groups(self) -> list[Group]:
        """Groups of the units that may go: those of a group are produced by the same layers."""
        counts: dict[int, list[tuple[str, int]]] = defaultdict(list)
        for block in self._filters:
            units, channels = torch.unique(self._units[block.nodes], return_counts=True)
            for unit, count in zip(units.tolist(), channels.tolist(), strict=True):
                counts[unit].append((block.layer, count))

        outputs = {block.layer: block for block in self._filters}
        by_producers: dict[tuple[str, tuple[tuple[str, int], ...]], list[int]] = defaultdict(list)
        for layer in self._order:
            if layer not in outputs:
                continue
            for unit in dict.fromkeys(self._units[outputs[layer].nodes].tolist()):
                if unit in counts and unit not in self._fixed and unit not in self._reasons:
                    by_producers[layer, tuple(counts[unit])].append(unit)
                counts.pop(unit, None)

        members = self._members(list(by_producers.values()))
        groups: list[Group] = []
        names: set[str] = set()
        for number, ((layer, _), units_of_group) in enumerate(by_producers.items()):
            name = layer
            if layer in names:  # another part of the layer's channels
                name = f"{layer}[{int(members[number][0].indices[0])}]"
            names.add(layer)
            groups.append(Group(name, "channel", len(units_of_group), members[number]))
        return groups

    def _members(self, units_of_groups: Sequence[Sequence[int]]) -> list[list[Member]]:
        """The members of every group, of which the units are given in their order."""
        group_of = torch.full((len(self._units),), -1)
        place_of = torch.full((len(self._units),), -1)
        for number, units in enumerate(units_of_groups):
            group_of[torch.tensor(units)] = number
            place_of[torch.tensor(units)] = torch.arange(len(units))

        members: list[list[Member]] = [[] for _ in units_of_groups]
        for block in self._blocks:
            units_of_block = self._units[block.nodes]
            groups_of_block = group_of[units_of_block]
            for number in torch.unique(groups_of_block).tolist():
                if number < 0:
                    continue
                indices = (groups_of_block == number).nonzero().flatten()
                unit_ids = place_of[units_of_block[indices]]
                module = self._modules[block.layer]
                member = Member(block.layer, module, block.outputs, indices, unit_ids)
                members[number].append(member)

        for members_of_group in members:
            members_of_group.sort(key=self._place)
        return members

    def _place(self, member: Member) -> int:
        """Layers that produce channels stand in the order of groups, before all others."""
        if member.loses_outputs:
            return self._order.get(member.layer, len(self._order))
        return len(self._order)

    def kept(self) -> list[KeptLayers]:
        """The layers whose channels must stay, at least some of them, by their reason."""
        layers: dict[str, dict[str, None]] = defaultdict(dict)
        outputs = {block.layer: block for block in self._filters}
        for layer in reversed(self._order):
            if layer not in outputs:
                continue
            for unit in dict.fromkeys(self._units[outputs[layer].nodes].tolist()):
                if unit in self._reasons and unit not in self._fixed:
                    layers[self._reasons[unit]].setdefault(layer)
        return [KeptLayers(tuple(names), reason) for reason, names in layers.items()]


def take_out(
    model: nn.Module, groups: Sequence[Group], dropped: Sequence[Sequence[int]]
) -> list[Group]:
    """Take the units `dropped[i]` out of every group `groups[i]`, in place.

    Several groups may lose inputs of one layer, so all indices of a layer go at once.

    Args:
        model: the network that the groups were found in, or a copy of it

    Returns:
        The groups as they are afterwards.
    """
    modules = dict(model.named_modules())
    lost = _lost_indices(groups, dropped)
    for (layer, loses_outputs), indices in lost.items():
        if not len(indices):
            continue

        module = modules[layer]
        is_conv = isinstance(module, CONVOLUTIONS)
        if is_conv and is_depthwise(module) and (layer, False) not in lost:
            module.groups -= len(indices) * module.groups // module.out_channels
        if isinstance(module, TRANSPOSED_CONVOLUTIONS):
            assert not loses_outputs, "a transposed convolution keeps its own channels"
            module.weight = _without(module.weight, 0, indices)
        else:
            _drop(module, 0 if loses_outputs else 1, indices)

    # After all tensors, because some modules count what their children have.
    for module in modules.values():
        set_widths(module)

    remaining = []
    for group, units in zip(groups, dropped, strict=True):
        members = []
        for member in group.members:
            lost_by_layer = lost[member.layer, member.loses_outputs]
            smaller = member.without(units, lost_by_layer, group.count)
            members.append(smaller.within(modules))
        remaining.append(replace(group, count=group.count - len(set(units)), members=members))
    return remaining


def _lost_indices(
    groups: Sequence[Group], dropped: Sequence[Sequence[int]]
) -> dict[tuple[str, bool], Tensor]:
    """All indices that a side of a layer loses, ascending, by the layer and `loses_outputs`."""
    parts: dict[tuple[str, bool], list[Tensor]] = defaultdict(list)
    for group, units in zip(groups, dropped, strict=True):
        for member in group.members:
            parts[member.layer, member.loses_outputs].append(member.indices_of(units))
    return {side: torch.unique(torch.cat(indices)) for side, indices in parts.items()}


def _drop(module: nn.Module, dim: int, indices: Tensor) -> None:
    """Drop outputs (dimension 0, of all tensors of a layer) or inputs (dimension 1, of weights)."""
    tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    for key, tensor in tensors:
        # A batch norm also counts batches, a bias has no inputs, and a table of places no channels.
        if tensor.dim() <= dim or not tensor.is_floating_point():
            continue
        if not isinstance(tensor, nn.Parameter) and tensor.shape[dim] == 1:
            continue  # a constant for all of them
        setattr(module, key, _without(tensor, dim, indices))


def _without(tensor: Tensor, dim: int, indices: Tensor) -> Tensor:
    """The tensor without some positions of a dimension; a parameter, if it was one."""
    stays = torch.ones(tensor.shape[dim], dtype=torch.bool)
    stays[indices] = False
    assert stays.any(), "at least one unit must stay"

    kept = stays.nonzero().flatten().to(tensor.device)
    selected = tensor.detach().index_select(dim, kept)
    if isinstance(tensor, nn.Parameter):
        selected = nn.Parameter(selected, requires_grad=tensor.requires_grad)
    return selected


def remove_units(
    model: nn.Module,
    groups: Sequence[Group],
    dropped: Sequence[list[int]],
    example_input: Tensor,
) -> list[Group]:
    """Take the units `dropped[i]` out of every group `groups[i]`, in place.

    Returns:
        The groups as they are afterwards.

    Raises:
        InputError: if the smaller network would compute anything else than the full network with
            those units set to zero. The network is as it was then.
    """
    if not _removal_equals_zeroing(model, groups, dropped, example_input):
        chosen = dict(zip((group.name for group in groups), dropped, strict=True))
        failing = _failing(model, groups, chosen, example_input)
        names = ", ".join(group.name for group in failing)
        raise InputError(
            f"without some channels of {names} the network would compute something else than with "
            "zeros in their place; name these layers in prune.protect"
        )

    return take_out(model, groups, dropped)


def _split_by_check(
    model: nn.Module, groups: list[Group], example_input: Tensor
) -> tuple[list[Group], list[Group]]:
    """The groups that can lose every second unit, all of them together, and the others."""
    dropped = {group.name: list(range(1, group.count, 2)) for group in groups}
    failing: list[Group] = []
    while groups:
        found = _failing(model, groups, dropped, example_input)
        if not found:
            break
        failing += found
        groups = [group for group in groups if group not in found]
    return groups, failing


def _failing(
    model: nn.Module,
    groups: Sequence[Group],
    dropped: Mapping[str, list[int]],
    example_input: Tensor,
) -> list[Group]:
    """The groups whose removal does not equal zeroing them, by halving."""
    units = [dropped[group.name] for group in groups]
    if _removal_equals_zeroing(model, groups, units, example_input):
        return []
    if len(groups) == 1:
        return list(groups)

    half = len(groups) // 2
    failing = []
    for part in (groups[:half], groups[half:]):
        failing += _failing(model, part, dropped, example_input)
    return failing or list(groups)  # each half alone can go, but not both


def zero_units(
    model: nn.Module, groups: Sequence[Group], dropped: Sequence[Sequence[int]]
) -> nn.Module:
    """Set all parameters of dropped units to zero, those of norms included.

    Norms without parameters get a mean of zero there, so that zeros stay zeros. The network then
    computes what it would without these units. `model` may be a copy of the network that the groups
    were found in.
    """
    modules = dict(model.named_modules())
    for group, units in zip(groups, dropped, strict=True):
        for member in group.members:
            if not member.loses_outputs:
                continue

            indices = member.indices_of(units)
            module = modules[member.layer]
            for parameter in module.parameters(recurse=False):
                parameter.data[indices.to(parameter.device)] = 0
            if isinstance(module, _BatchNorm) and module.weight is None:
                assert module.running_mean is not None, "it has no tensor that could be a member"
                module.running_mean[indices.to(module.running_mean.device)] = 0

    return model


def _removal_equals_zeroing(
    model: nn.Module,
    groups: Sequence[Group],
    dropped: Sequence[Sequence[int]],
    example_input: Tensor,
) -> bool:
    """Whether a copy computes the same without units as with zeros in their place."""
    copy, inputs, expected, tolerance = _zeroed(model, groups, dropped, example_input)
    with torch.no_grad():
        try:
            take_out(copy, groups, dropped)
            actual = copy(inputs.clone())
        except Exception:  # widths that the network's own code rests on; it may raise anything
            return False

    # torch.testing would import a compiler to say the same.
    return actual.shape == expected.shape and torch.allclose(
        actual, expected, rtol=tolerance, atol=tolerance
    )


def _zeroed(
    model: nn.Module,
    groups: Sequence[Group],
    dropped: Sequence[Sequence[int]],
    example_input: Tensor,
) -> tuple[nn.Module, Tensor, Tensor, float]:
    """A copy with zeros in place of units, inputs for it, its outputs, and how exact these are."""
    inputs = example_input
    if example_input.is_floating_point():
        generator = torch.Generator().manual_seed(0)
        shape = (2, *example_input.shape[1:])
        inputs = torch.randn(shape, generator=generator, dtype=torch.float64)

    # In double precision another order of summation can neither hide nor fake a difference.
    copy = zero_units(deepcopy(model).double().eval(), groups, dropped)
    is_double = True
    try:
        expected = _outputs(copy, inputs)
    except RuntimeError:  # the network's own code turns tensors into a type of its choice
        copy = zero_units(deepcopy(model).eval(), groups, dropped)
        is_double = False
        inputs = inputs.to(example_input.dtype)
        expected = _outputs(copy, inputs)

    if not expected.isfinite().all():  # not every number can be an input, as of a logarithm
        inputs = example_input.to(inputs.dtype)
        expected = _outputs(copy, inputs)

    tolerance = 1e-9
    if not is_double:
        tolerance = torch.finfo(expected.dtype).eps ** 0.75 * float(expected.abs().max())
    return copy, inputs, expected, tolerance


def _outputs(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        outputs: Tensor = model(inputs.clone())
    return outputs
