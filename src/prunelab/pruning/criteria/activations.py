"""Criteria that watch what flows through the layers of a network: scales of norms, and inputs."""

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from functools import partial
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.utils.hooks import RemovableHandle

from prunelab.core.errors import InputError
from prunelab.models.networks import prunable_names, prunable_weights
from prunelab.models.resize import CONVOLUTIONS
from prunelab.pruning.criteria.calibration import CalibrationData, distribute_evenly, evaluating
from prunelab.pruning.unstructured.ranking import Saliency
from prunelab.runtime import exact


def bn_scale(model: nn.Module, calibration: CalibrationData) -> Saliency:
    """Score every filter by the scale |gamma| of its channel in the norm that follows (slimming).

        score(F_i) = |gamma_i|, distributed evenly over the weights of filter i

    A low score means that the norm nearly switches the channel off; 0 means that it does. A high
    score means that the channel passes on at full strength. The norm must take in the layer's
    output as it is. A layer without such a norm, such as the head, is absent.

    Liu et al. 2017, Learning Efficient Convolutional Networks through Network Slimming.

    Raises:
        InputError: if no layer of the network is directly followed by a norm with scales.
    """
    scales = _following_scales(model, calibration.example())
    if not scales:
        raise InputError(
            "bn_scale does not support this network: no batch norm or group norm with scales "
            "directly follows a layer. Use a network with such norms or another criterion."
        )

    saliency: Saliency = {}
    for name, weight in prunable_weights(model).items():
        if name in scales:
            saliency[name] = distribute_evenly(scales[name].detach().abs(), weight)

    return saliency


def _following_scales(model: nn.Module, example: Tensor) -> dict[str, Tensor]:
    """The scales, [out], of the norm directly behind each layer, by the name of the layer's weight.

    A norm is directly behind a layer if it receives the very tensor that the layer returned, and
    has a scale for each of the layer's outputs: of tokens [B, L, out] a norm scales the positions.
    """
    # The outputs are kept alive, so that no two of them share an id. The version counter shows
    # whether an operation in place (an activation) has changed an output in the meantime.
    outputs: dict[int, tuple[str, Tensor, int]] = {}
    scales: dict[str, Tensor] = {}

    def remember_output(weight_name: str, layer: nn.Module, args: object, output: Tensor) -> None:
        if isinstance(layer, nn.Linear) and output.dim() > 2:
            return
        outputs[id(output)] = (weight_name, output, output._version)

    def recognise_input(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        received = args[0]
        weight_name, _, version = outputs.get(id(received), ("", None, -1))

        unchanged = version == received._version
        if unchanged and isinstance(norm.weight, Tensor):
            scales.setdefault(weight_name, norm.weight)

    handles: list[RemovableHandle] = []
    for name, module in model.named_modules():
        if isinstance(module, (*CONVOLUTIONS, nn.Linear)):
            hook = partial(remember_output, f"{name}.weight")
            handles.append(module.register_forward_hook(hook))
        elif isinstance(module, _BatchNorm | nn.GroupNorm):
            handles.append(module.register_forward_pre_hook(recognise_input))

    _forward(model, [example], handles)
    return scales


def wanda(model: nn.Module, calibration: CalibrationData) -> Saliency:
    """Score every weight by its magnitude times the norm of the inputs that it multiplies (Wanda).

        score(w_ij) = |w_ij| ||X_j||, with the L2 norm over all examples and positions

    For a linear layer, X_j are the values of input feature j. For a convolution, they are the
    inputs under that element of the kernel, at every place where the kernel is put. Padding counts
    as zero. A high score means that the weight contributes much to the layer's output; 0 means that
    the weight or all of its inputs are zero.

    The paper ranks the weights within each row of outputs. Layers that no example passes through
    are absent.

    Sun et al. 2023, A Simple and Effective Pruning Approach for Large Language Models.
    """
    squares = _squared_inputs(model, calibration)

    saliency: Saliency = {}
    for name, weight in prunable_weights(model).items():
        if name in squares:
            norms = exact.sqrt(squares[name]).to(weight.dtype)
            saliency[name] = (weight.detach().abs() * norms).cpu()

    return saliency


AddSquares = Callable[[str, Tensor], None]  # adds sums to those of the weight of this name


def _squared_inputs(model: nn.Module, calibration: CalibrationData) -> dict[str, Tensor]:
    """The squares of the inputs that a weight multiplies, summed over all calibration examples.

    Returns:
        A float64 tensor for every prunable weight that is used. Its shape broadcasts to that of the
        weight.
    """
    names = prunable_names(model)
    squares: dict[str, Tensor] = {}

    def add(alias: str, sums: Tensor) -> None:
        if alias not in names:
            return
        name = names[alias]
        if name in squares:
            squares[name] = squares[name] + sums
        else:
            squares[name] = sums

    handles = _watch_inputs(model, add)
    _forward(model, (inputs for inputs, _ in calibration.batches()), handles)
    return squares


def _watch_inputs(model: nn.Module, add: AddSquares) -> list[RemovableHandle]:
    """Hook every layer with prunable weights, so that it adds the squares of its inputs."""

    def observe_conv(name: str, conv: _ConvNd, args: tuple[Tensor, ...]) -> None:
        add(name, _squares_under_kernel(conv, args[0]))

    def observe_linear(name: str, linear: nn.Linear, args: tuple[Tensor, ...]) -> None:
        add(name, _squares(args[0]))

    attention_names: list[str] = []
    handles: list[RemovableHandle] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            attention_names.append(name)
            handles.append(_watch_attention(name, module, add))
        elif isinstance(module, CONVOLUTIONS):
            hook = partial(observe_conv, f"{name}.weight")
            handles.append(module.register_forward_pre_hook(hook))
        elif isinstance(module, nn.Linear):
            # An attention layer comes before its output projection, and watches that one itself.
            if name.removesuffix(".out_proj") in attention_names:
                continue
            hook = partial(observe_linear, f"{name}.weight")
            handles.append(module.register_forward_pre_hook(hook))

    return handles


def _squares(inputs: Tensor) -> Tensor:
    """The squares of the inputs, summed over all dimensions but the last: [..., in] to [in]."""
    return inputs.square().flatten(0, -2).sum(0, dtype=torch.float64)


def _squares_under_kernel(conv: _ConvNd, inputs: Tensor) -> Tensor:
    """The squares of the inputs under every element of the kernels, summed over all places.

    Args:
        conv: the convolution.
        inputs: what it receives, [B, in, H, W] or with other dimensions.

    Returns:
        A tensor of the weight's shape, [out, in / groups, height, width].
    """
    # Padding copies values and adds none. The squares may therefore be summed over the examples
    # first, and a single image is unfolded instead of a batch.
    squares = inputs.square().sum(0, keepdim=True, dtype=torch.float64)

    mode: str = conv.padding_mode
    if mode == "zeros":
        mode = "constant"
    padded = F.pad(squares, conv._reversed_padding_repeated_twice, mode=mode)

    if isinstance(conv, nn.Conv2d):
        columns = F.unfold(padded, conv.kernel_size, dilation=conv.dilation, stride=conv.stride)
        sums = columns.sum(2)
    else:
        sums = _sums_under_kernel(conv, padded)
    by_group = sums.view(conv.groups, *conv.weight.shape[1:])

    outputs_per_group = conv.out_channels // conv.groups
    return by_group.repeat_interleave(outputs_per_group, dim=0)


def _sums_under_kernel(conv: _ConvNd, padded: Tensor) -> Tensor:
    """The values under every element of a kernel of any dimension, summed over its places.

    Args:
        conv: the convolution.
        padded: its inputs with their padding, [1, in, ...].

    Returns:
        The sums, [1, in, elements].
    """
    sums = []
    for place in product(*map(range, conv.kernel_size)):
        part = padded
        for axis, offset in enumerate(place):
            dilation, stride = conv.dilation[axis], conv.stride[axis]
            reach = dilation * (conv.kernel_size[axis] - 1)
            start = dilation * offset
            end = start + padded.shape[axis + 2] - reach
            indices = torch.arange(start, end, stride, device=padded.device)
            part = part.index_select(axis + 2, indices)
        sums.append(part.flatten(2).sum(2))
    return torch.stack(sums, dim=2)


def _watch_attention(name: str, module: nn.MultiheadAttention, add: AddSquares) -> RemovableHandle:
    """Hook an attention layer, which multiplies by its projections without calling them."""
    # A copy whose output projection is the identity returns what the real one receives.
    probe = deepcopy(module).eval()
    projection = probe.out_proj
    width = projection.weight.shape[1]
    identity = torch.eye(width, dtype=projection.weight.dtype, device=projection.weight.device)
    projection.weight = nn.Parameter(identity)
    if projection.bias is not None:
        projection.bias = nn.Parameter(torch.zeros_like(identity[0]))

    def observe(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        received = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs

        sums: list[Tensor] = []
        for role in ("query", "key", "value"):
            sums.append(_squares(received[role]).expand(width, -1))

        if module.in_proj_weight is not None:
            add(f"{name}.in_proj_weight", torch.cat(sums))
        add(f"{name}.out_proj.weight", _squares(probe(*args, **kwargs)[0]))

    return module.register_forward_pre_hook(observe, with_kwargs=True)


def _forward(
    model: nn.Module, batches: Iterable[Tensor], handles: Sequence[RemovableHandle]
) -> None:
    """Run the model on these inputs in evaluation mode, then remove the hooks."""
    try:
        with evaluating(model), torch.no_grad():
            for inputs in batches:
                model(inputs)
    finally:
        for handle in handles:
            handle.remove()
