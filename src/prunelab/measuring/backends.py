"""BACKENDS: what runs a network for measuring, by name; each turns a network and its inputs into one call."""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from prunelab.models.catalogue import Shape, example
from prunelab.runtime import Execution, generator

Arm = Callable[[], object]  # one call of what is measured
Backend = Callable[[nn.Module, Tensor, Execution], Arm]


def inputs_of(shape: Shape, batch_size: int, execution: Execution) -> Tensor:
    """A batch to measure with: noise in place of images, texts of full length; time does not depend on which."""
    one = example(shape)
    if not one.is_floating_point():
        return one.expand(batch_size, -1).contiguous().to(execution.device)
    noise = torch.randn(batch_size, *shape, generator=generator("benchmark", batch_size))
    return noise.to(execution.device, memory_format=execution.memory_format)


def eager(model: nn.Module, inputs: Tensor, execution: Execution) -> Arm:
    """Inference by torch as it comes; the network must be in evaluation mode and on the device."""
    assert not model.training
    precision = nullcontext() if execution.autocast_dtype is None else execution.autocast()

    def call() -> object:
        with torch.inference_mode(), precision:
            return model(inputs)

    return call


def compiled(model: nn.Module, inputs: Tensor, execution: Execution) -> Arm:
    """Inference by torch.compile, which the first call does; it needs a C++ compiler on a CPU."""
    return eager(torch.compile(model), inputs, execution)  # type: ignore[arg-type]


BACKENDS: dict[str, Backend] = {"eager": eager, "compiled": compiled}
