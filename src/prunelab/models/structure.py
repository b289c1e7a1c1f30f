"""What pruning must know about a network besides its modules, for networks of MODELS and others.

Nothing here changes a network.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from prunelab.models.catalogue import Shape
from prunelab.models.networks import example_input, find_head, fixed_layers

# Layers that make new features of their inputs: what stands before one may be made narrower.
MIXING_LAYERS = (
    nn.modules.conv._ConvNd,
    nn.Linear,
    nn.Bilinear,
    nn.Embedding,
    nn.MultiheadAttention,
    nn.RNNBase,
)


@dataclass(frozen=True)
class Structure:
    """What pruning must know about a network besides its modules.

    Args:
        name: the network's name in messages
        outputs: names of the layers that make the network's outputs
        fixed: names of all layers that must keep their output channels, `outputs` included
        example: one input to trace the network with, [1, ...], on the CPU
    """

    name: str
    outputs: tuple[str, ...]
    fixed: tuple[str, ...]
    example: Tensor

    def fixed_layers(self, model: nn.Module) -> list[nn.Module]:
        """The layers of a network of this structure that must keep their output channels."""
        return [model.get_submodule(name) for name in self.fixed]


def registered_structure(name: str, model: nn.Module, shape: Shape) -> Structure:
    """The structure of a network of MODELS; `shape` is that of one input.

    Raises:
        InputError: if there is no network of that name.
    """
    names = {module: path for path, module in model.named_modules()}
    fixed = tuple(names[layer] for layer in fixed_layers(name, model))
    return Structure(name, (find_head(name, model),), fixed, example_input(shape))


def traced_structure(model: nn.Module, example: Tensor) -> Structure:
    """The structure of any network that maps one tensor to one tensor; it is named by its class.

    `example` is one input, [1, ...], on the CPU, as the network is.
    """
    outputs = output_layers(model, example)
    return Structure(type(model).__name__, outputs, outputs, example)


def output_layers(model: nn.Module, example: Tensor) -> tuple[str, ...]:
    """The names of the layers whose outputs reach the network's outputs without another layer.

    These are the head, and in a network that ends with a sum all layers that are added. Their
    outputs are what the network is for, so none of them may go. Norms, activations, pooling and
    reshapes on the way change nothing of that. `model` maps the tensor `example` to one tensor.
    """
    copy = deepcopy(model).eval()
    for parameter in copy.parameters():
        parameter.requires_grad_(parameter.is_floating_point())

    makers: dict[Node, str] = {}

    def remember(name: str, output: Any) -> None:
        tensor = output[0] if isinstance(output, tuple) else output
        if isinstance(tensor, Tensor) and tensor.grad_fn is not None:
            makers[tensor.grad_fn] = name

    handles = []
    for name, module in copy.named_modules():
        if isinstance(module, MIXING_LAYERS):
            maker = name
            if isinstance(module, nn.MultiheadAttention):  # it does not call its last layer
                maker = f"{name}.out_proj".removeprefix(".")
            hook = _output_hook(maker, remember)
            handles.append(module.register_forward_hook(hook))

    with torch.enable_grad():
        output = copy(example.clone())
    for handle in handles:
        handle.remove()

    return tuple(sorted(set(_makers_of(output, makers))))


def _output_hook(name: str, remember: Any) -> Any:
    def hook(module: nn.Module, inputs: object, output: object) -> None:
        remember(name, output)

    return hook


def _makers_of(output: Tensor, makers: dict[Node, str]) -> Iterator[str]:
    """Walk the graph of an output back to the nearest layers on every path."""
    queue = [output.grad_fn]
    seen: set[Node] = set()
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue

        seen.add(node)
        if node in makers:
            yield makers[node]
        else:
            queue += [before for before, _ in node.next_functions]
