"""Criteria that watch what flows through the layers."""

from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunelab.core.errors import InputError
from prunelab.models.catalogue import prunable_weights
from prunelab.pruning.criteria.calibration import CalibrationData, distribute_evenly, evaluating
from prunelab.pruning.unstructured.ranking import Saliency


def bn_scale(model: nn.Module, evidence: CalibrationData) -> Saliency:
    """A channel's |gamma| in the norm that directly follows its layer (network slimming, Liu et al. 2017).

    Layers that no norm follows, such as the head, are absent.

    Raises:
        InputError: if no layer of the network is followed by a norm with scales.
    """
    weights = prunable_weights(model)
    norms = _following_norms(model, evidence.example())
    if not norms:
        raise InputError(
            "bn_scale: no layer of this network is directly followed by a batch or group norm with scales"
        )
    return {
        name: distribute_evenly(norms[name].detach().abs(), weights[name])
        for name in weights
        if name in norms
    }


def _following_norms(model: nn.Module, example: Tensor) -> dict[str, Tensor]:
    """The scales, [out], of the norm that takes in a layer's output as it is, by the name of the layer's weights."""
    # Held on to, so that no identity is given away twice; the version tells whether something changed it in place.
    outputs: dict[int, tuple[str, Tensor, int]] = {}
    scales: dict[str, Tensor] = {}

    def remember(name: str, output: Tensor) -> None:
        outputs[id(output)] = f"{name}.weight", output, output._version

    def recognise(norm: nn.Module, received: Tensor) -> None:
        name, _, version = outputs.get(id(received), ("", None, -1))
        if version == received._version and isinstance(norm.weight, Tensor):
            scales.setdefault(name, norm.weight)

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            handles.append(
                module.register_forward_hook(
                    lambda _, args, output, name=name: remember(name, output)
                )
            )
        elif isinstance(module, _BatchNorm | nn.GroupNorm):
            handles.append(
                module.register_forward_pre_hook(lambda norm, args: recognise(norm, args[0]))
            )
    _forward(model, [example], handles)
    return scales


def wanda(model: nn.Module, evidence: CalibrationData) -> Saliency:
    """|w| times the L2 norm, over all examples and positions, of the inputs that it multiplies (Sun et al. 2023).

    For a convolution those are the inputs under that element of the kernel at every place that the kernel is put, that
    is the columns of the unfolded input; padding counts as zero. The paper ranks weights within each output row.
    Layers that no example passes through are absent.
    """
    weights = prunable_weights(model)
    squares: Saliency = {}  # of the inputs, summed; in a shape that broadcasts to the weights'

    def add(name: str, summed: Tensor) -> None:
        if name in weights:
            squares[name] = squares[name] + summed if name in squares else summed

    handles = []
    attentions = [
        name for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)
    ]
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            handles.append(
                module.register_forward_pre_hook(
                    lambda conv, args, name=name: add(
                        f"{name}.weight", _squares_under_kernel(conv, args[0])
                    )
                )
            )
        elif isinstance(module, nn.Linear) and name.removesuffix(".out_proj") not in attentions:
            handles.append(
                module.register_forward_pre_hook(
                    lambda linear, args, name=name: add(f"{name}.weight", _squares(args[0]))
                )
            )
        elif isinstance(module, nn.MultiheadAttention):
            handles.append(_watch_attention(name, module, add))
    _forward(model, (inputs for inputs, _ in evidence.batches()), handles)
    return {
        name: (weight.detach().abs() * squares[name].sqrt().to(weight.dtype)).cpu()
        for name, weight in weights.items()
        if name in squares
    }


def _squares(inputs: Tensor) -> Tensor:
    """Sums of squares over all but the last dimension: [..., in] to [in]."""
    return inputs.square().flatten(0, -2).sum(0, dtype=torch.float64)


def _squares_under_kernel(conv: nn.Conv2d, inputs: Tensor) -> Tensor:
    """Sums of squares of what every element of the kernels meets: [B, in, H, W] to [out, in / groups, k, k]."""
    # Padding copies, so squares may be summed over the examples first: one image is unfolded, not a batch.
    squares = inputs.square().sum(0, keepdim=True, dtype=torch.float64)
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    squares = F.pad(squares, conv._reversed_padding_repeated_twice, mode=mode)
    columns = F.unfold(squares, conv.kernel_size, dilation=conv.dilation, stride=conv.stride)
    by_group = columns.sum(2).view(conv.groups, *conv.weight.shape[1:])
    return by_group.repeat_interleave(conv.out_channels // conv.groups, dim=0)


def _watch_attention(name: str, module: nn.MultiheadAttention, add: Any) -> Any:
    """Observe the projections of an attention layer, which multiplies by their weights without calling them."""
    # What the output projection receives is what the layer gives out where that projection changes nothing.
    probe = deepcopy(module).eval()
    nn.init.eye_(probe.out_proj.weight)
    if probe.out_proj.bias is not None:
        nn.init.zeros_(probe.out_proj.bias)

    def observe(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        received = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
        parts = [
            _squares(received[part]).expand(module.embed_dim, -1)
            for part in ("query", "key", "value")
        ]
        if module.in_proj_weight is not None:
            add(f"{name}.in_proj_weight", torch.cat(parts))
        add(f"{name}.out_proj.weight", _squares(probe(*args, **kwargs)[0]))

    return module.register_forward_pre_hook(observe, with_kwargs=True)


def _forward(model: nn.Module, batches: Iterable[Tensor], handles: list[Any]) -> None:
    """Show the model these inputs while the hooks are in place, and take the hooks away."""
    try:
        with evaluating(model), torch.no_grad():
            for inputs in batches:
                model(inputs)
    finally:
        for handle in handles:
            handle.remove()
