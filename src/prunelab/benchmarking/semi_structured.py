"""The backend `semi_structured`: layers with 2:4 sparse weights, by kernels that skip the zeros.

A GPU from compute capability 8.0 on multiplies by a matrix of which two in every four neighbours of
a row are zero at up to twice the speed. Here are: which layers of a network qualify, and the
network that runs them so. The kernels are torch's (cuSPARSELt or CUTLASS).
"""

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunelab.core.errors import InputError
from prunelab.runtime.device import Execution

Runnable = Callable[[], object]

MIN_CAPABILITY = (8, 0)
DTYPE = torch.bfloat16

# The sizes that both of torch's kernels take, in bf16.
OUTPUT_MULTIPLE = 32
INPUT_MULTIPLE = 64

# Sparse kernels may be as wrong as dense ones in bf16, and half as much again. A network that is
# exact in bf16 has this much room.
MAX_ERROR_RATIO = 1.5
MIN_ERROR = 1e-3


def sparse_layers(model: nn.Module) -> list[str]:
    """The names of the layers that sparse kernels can run, in the network's order.

    They are linear layers, and 1x1 convolutions that are linear layers at every position (stride 1,
    no padding, one group). Their weights, as a matrix [outputs, inputs], have at least two zeros in
    every four neighbours of a row; outputs are a multiple of 32 and inputs of 64.
    """
    names = []
    for name, module in model.named_modules():
        if _is_linear(module) and _is_two_of_four(_matrix(module)):
            names.append(name)
    return names


def semi_structured(model: nn.Module, inputs: Tensor, execution: Execution) -> Runnable:
    """Inference in bf16, with 2:4 sparse kernels for the layers of `sparse_layers`.

    All weights are bf16 beforehand, in networks without such layers as well. So the difference
    between two networks is the kernels, and no conversion.

    Raises:
        InputError: if no such GPU computes, or the outputs are not those of dense kernels.
    """
    require_sparse_gpu(execution)
    dense = deepcopy(model).to(DTYPE).eval()
    sparse = with_sparse_layers(dense, torch.sparse.to_sparse_semi_structured)
    low_precision = inputs
    if inputs.is_floating_point():
        low_precision = inputs.to(DTYPE)

    def call() -> Tensor:
        with torch.inference_mode():
            outputs: Tensor = sparse(low_precision)
            return outputs

    with torch.inference_mode():
        exact = model(inputs)
        dense_error = _relative_error(dense(low_precision), exact)
    sparse_error = _relative_error(call(), exact)

    agrees = sparse_error <= max(MAX_ERROR_RATIO * dense_error, MIN_ERROR)
    if not agrees:  # also if it is NaN
        raise InputError(
            f"sparse kernels compute other outputs than dense ones: {sparse_error:.2%} off, "
            f"dense kernels in bf16 {dense_error:.2%}. Remove semi_structured from "
            "benchmark.backends"
        )
    return call


def with_sparse_layers(model: nn.Module, compress: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy of a network whose `sparse_layers` multiply by compressed matrices.

    `compress` makes one of a matrix [outputs, inputs].
    """
    copied = deepcopy(model)
    for name in sparse_layers(copied):
        layer = copied.get_submodule(name)
        bias = layer.bias
        assert bias is None or isinstance(bias, Tensor)

        matrix = compress(_matrix(layer).contiguous())
        channels_first = isinstance(layer, nn.Conv2d)
        copied.set_submodule(name, _CompressedLinear(matrix, bias, channels_first=channels_first))
    return copied


def require_sparse_gpu(execution: Execution) -> None:
    """Check that a GPU computes that has sparse kernels.

    Raises:
        InputError: if none does.
    """
    if execution.device.type != "cuda":
        raise InputError(
            "benchmark.backends: semi_structured needs a GPU. Set runtime.device: cuda, or remove "
            "semi_structured"
        )

    capability = torch.cuda.get_device_capability(execution.device)
    if capability < MIN_CAPABILITY:
        major, minor = capability
        raise InputError(
            "benchmark.backends: semi_structured needs a GPU of compute capability 8.0 or later, "
            f"and this one has {major}.{minor}. Remove semi_structured"
        )


class _CompressedLinear(nn.Module):
    """A linear layer with a compressed matrix, at every position of [B, C, H, W] if asked.

    Some networks read `weight` and `bias` themselves, as attention in windows does.
    """

    def __init__(self, matrix: Tensor, bias: Tensor | None, *, channels_first: bool) -> None:
        super().__init__()
        self.weight = matrix
        self.bias = bias
        self._channels_first = channels_first

    def forward(self, inputs: Tensor) -> Tensor:
        if not self._channels_first:
            return self._linear(inputs)

        channels_last = inputs.permute(0, 2, 3, 1)
        return self._linear(channels_last).permute(0, 3, 1, 2)

    def _linear(self, inputs: Tensor) -> Tensor:
        # torch's sparse kernels take rows, as a view. Inputs in another order are copied.
        rows = inputs.reshape(-1, inputs.shape[-1])
        outputs = F.linear(rows, self.weight, self.bias)
        return outputs.view(*inputs.shape[:-1], -1)


def _is_linear(module: nn.Module) -> bool:
    if type(module) is nn.Linear:
        return True
    return (
        type(module) is nn.Conv2d
        and module.kernel_size == (1, 1)
        and module.stride == (1, 1)
        and module.padding in ((0, 0), "valid")
        and module.groups == 1
    )


def _matrix(module: nn.Module) -> Tensor:
    """The weight of a layer as [outputs, inputs]."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.detach().flatten(1)


def _is_two_of_four(matrix: Tensor) -> bool:
    outputs, inputs = matrix.shape
    if outputs % OUTPUT_MULTIPLE or inputs % INPUT_MULTIPLE:
        return False
    nonzeros = (matrix.view(outputs, inputs // 4, 4) != 0).sum(dim=2)
    return bool((nonzeros <= 2).all())


def _relative_error(outputs: Tensor, exact: Tensor) -> float:
    """The length of the difference as a share of the length of the exact outputs."""
    difference = outputs.float() - exact.float()
    return float(difference.norm() / exact.float().norm().clamp_min(1e-12))
