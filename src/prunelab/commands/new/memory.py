"""How much memory there is, and how much of it the activations of a network take."""

import math
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from prunelab.commands.gpus import devices
from prunelab.models.catalogue import Shape
from prunelab.models.networks import build_on_meta

FLOAT_BYTES = 4


def activation_bytes(name: str, classes: int, shape: Shape) -> int:
    """The bytes of the outputs of all layers of a network for one input, in float32.

    Raises:
        InputError: if there is no such network, or if it cannot read inputs of this shape.
    """
    network = build_on_meta(name, classes, shape)
    total = 0

    def add(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal total
        if isinstance(output, Tensor):
            total += math.prod(output.shape) * FLOAT_BYTES

    for module in network.modules():
        if not list(module.children()):
            module.register_forward_hook(add)
    device = next(network.parameters()).device
    with torch.no_grad():
        network.eval()(torch.zeros(1, *shape, device=device))
    return total


def free_bytes() -> tuple[int, str]:
    """The bytes that are free where networks are trained, and what memory that is."""
    if devices() and torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return int(free), "GPU memory"
    return int(psutil.virtual_memory().available), "memory"
