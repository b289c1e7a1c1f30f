"""What a network costs on paper: parameters, sparsity and multiply-accumulates (MACs)."""

import warnings
from collections.abc import Callable
from copy import deepcopy

import torch
from torch import nn

from prunelab.models.catalogue import Shape, example_input, prunable_weights

TRAINING_PASSES = 3  # forward, and backward to inputs and to weights: about the same work each


def macs(model: nn.Module, shape: Shape) -> int:
    """Multiply-accumulates of one input, as torchprofile counts them; a zeroed weight costs like any other."""
    from torchprofile import profile_macs

    copy = deepcopy(model).cpu().float().eval()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # tracing is deprecated in torch, and kinds of operators are skipped on purpose
        return int(profile_macs(copy, example_input(shape)))  # type: ignore[arg-type]


def cost(model: nn.Module, dense: nn.Module, shape: Shape) -> dict[str, float]:
    """Counts for `model`, and ratios against the dense network it came from (dense ÷ this, so 2 is half the cost).

    `sparsity` is 1 less non-zero prunable weights ÷ the dense network's prunable weights, so thinner nets count too;
    `macs_nonzero` leaves out the multiplications by a zero weight, which no dense kernel does.
    """
    dense_weights = sum(weight.numel() for weight in prunable_weights(dense).values())
    nonzero_weights = sum(
        int(weight.count_nonzero()) for weight in prunable_weights(model).values()
    )
    ours, theirs = macs(model, shape), macs(dense, shape)
    ours_stored, theirs_stored = parameters(model), parameters(dense)
    return {
        "params": ours_stored,
        "params_nonzero": sum(int(parameter.count_nonzero()) for parameter in model.parameters()),
        "params_ratio": theirs_stored / ours_stored,
        "sparsity": 1 - nonzero_weights / dense_weights,
        "macs": ours,
        "macs_nonzero": ours - _macs_of_zeros(model, shape),
        "macs_ratio": theirs / ours,
    }


def _macs_of_zeros(model: nn.Module, shape: Shape) -> int:
    places = output_positions(model, example_input(shape))
    zeros = {
        name: weight.numel() - int(weight.count_nonzero())
        for name, weight in prunable_weights(model).items()
    }
    return sum(count * places[name.rpartition(".")[0]] for name, count in zeros.items())


def output_positions(model: nn.Module, example: torch.Tensor) -> dict[str, int]:
    """At how many places (pixels, tokens) every layer is applied to one input, by the layer's name."""
    places: dict[str, int] = {}

    def note(name: str, features: int) -> Callable[..., None]:
        def hook(
            module: nn.Module, inputs: object, output: torch.Tensor | tuple[torch.Tensor, ...]
        ) -> None:
            result = output if isinstance(output, torch.Tensor) else output[0]
            places[name] = places.get(name, 0) + result[0].numel() // features

        return hook

    widths = {
        name: module.embed_dim
        if isinstance(module, nn.MultiheadAttention)
        else module.weight.shape[0]
        for name, module in model.named_modules()
        if isinstance(
            module, nn.Conv2d | nn.Linear | nn.BatchNorm2d | nn.LayerNorm | nn.MultiheadAttention
        )
    }
    hooks = [
        model.get_submodule(name).register_forward_hook(note(name, width))
        for name, width in widths.items()
    ]
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(example.to(next(model.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
        model.train(training)
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention) and name in places:
            places[f"{name}.out_proj"] = places[name]  # it is used without being called
    return places


def training_macs(model: nn.Module, shape: Shape, images: int) -> int:
    """MACs spent on training with so many images (an image counts once per epoch)."""
    return TRAINING_PASSES * macs(model, shape) * images


def parameters(model: nn.Module) -> int:
    """How many parameters a network has, zeros included."""
    return sum(parameter.numel() for parameter in model.parameters())
