"""The theoretical cost of a network: parameters, sparsity and multiply-accumulates (MACs)."""

import warnings
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunelab.models.catalogue import Shape
from prunelab.models.networks import example_input, prunable_names, prunable_weights
from prunelab.models.resize import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS

TRAINING_PASSES = 3  # forward, and backward to inputs and to weights, which cost about the same
LAYERS = (
    *CONVOLUTIONS,
    *TRANSPOSED_CONVOLUTIONS,
    nn.Linear,
    _BatchNorm,
    nn.LayerNorm,
    nn.MultiheadAttention,
)


def macs(model: nn.Module, shape: Shape) -> int:
    """MACs of one input of `shape`, counted by torchprofile. A zero weight costs like any other."""
    return macs_at(model, example_input(shape))


def macs_at(model: nn.Module, example: Tensor) -> int:
    """MACs of one input as `macs` counts them; `example` is that input, [1, ...], on the CPU."""
    from torchprofile import profile_macs

    copy = deepcopy(model).cpu().float().eval()
    example = example.clone()  # a network may work on its inputs in place
    if example.is_floating_point():
        example = example.float()
    with warnings.catch_warnings():
        # torch deprecates tracing, and torchprofile skips some operators on purpose.
        warnings.simplefilter("ignore")
        return int(profile_macs(copy, example))  # type: ignore[arg-type]


def cost(
    model: nn.Module, dense: nn.Module, shape: Shape, *, dense_macs: int | None = None
) -> dict[str, float]:
    """Counts for `model`, and ratios to the dense network that it comes from.

    Args:
        model: the pruned network
        dense: the network before pruning
        shape: shape of one input
        dense_macs: the MACs of `dense`, where they are known: to count them takes time

    Returns:
        `params` and `macs` count all weights, zeros too. `params_nonzero` leaves out zero
        parameters, and `macs_nonzero` the multiplications by zero weights, which dense kernels
        still perform. `params_ratio` and `macs_ratio` are dense / pruned: 2 means half the cost.
        `sparsity` is 1 - nonzero prunable weights / prunable weights of the dense network, so
        removed channels count too: 0 means no weight is gone, 1 means all are.
    """
    return cost_at(model, dense, example_input(shape), dense_macs=dense_macs)


def cost_at(
    model: nn.Module, dense: nn.Module, example: Tensor, *, dense_macs: int | None = None
) -> dict[str, float]:
    """The counts of `cost` at one input: `example`, [1, ...], on the CPU."""
    dense_weights = sum(weight.numel() for weight in prunable_weights(dense).values())
    nonzero_weights = sum(
        int(weight.count_nonzero()) for weight in prunable_weights(model).values()
    )
    params_nonzero = sum(int(parameter.count_nonzero()) for parameter in model.parameters())

    model_params, dense_params = parameters(model), parameters(dense)
    model_macs = macs_at(model, example)
    if dense_macs is None:
        dense_macs = macs_at(dense, example)

    return {
        "params": model_params,
        "params_nonzero": params_nonzero,
        "params_ratio": dense_params / model_params,
        "sparsity": 1 - nonzero_weights / dense_weights,
        "macs": model_macs,
        "macs_nonzero": model_macs - _macs_of_zeros(model, example),
        "macs_ratio": dense_macs / model_macs,
    }


def _macs_of_zeros(model: nn.Module, example: Tensor) -> int:
    """MACs of one input that multiply by a zero weight."""
    positions = weight_positions(model, example)

    zero_macs = 0
    for name, weight in prunable_weights(model).items():
        zeros = weight.numel() - int(weight.count_nonzero())
        zero_macs += zeros * positions[name]
    return zero_macs


def weight_positions(model: nn.Module, example: Tensor) -> dict[str, int]:
    """How often each prunable weight is applied to one input, by name, in all layers that have it.

    It is 0 if none of them is used.
    """
    positions = output_positions(model, example)

    by_weight: dict[str, int] = {}
    for alias, name in prunable_names(model).items():
        layer = alias.rpartition(".")[0]
        by_weight[name] = by_weight.get(name, 0) + positions.get(layer, 0)
    return by_weight


def output_positions(model: nn.Module, example: Tensor) -> dict[str, int]:
    """How often each layer is applied to one input: its number of output pixels or tokens.

    Args:
        model: the network, whose layers are in the same modes afterwards
        example: one input, as `example_input` makes it

    Returns:
        The number of positions by layer name, of all layers that the forward pass uses.
    """
    positions: dict[str, int] = {}

    def add_positions(
        name: str, layer: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]
    ) -> None:
        if isinstance(output, tuple):
            output = output[0]  # attention also returns its weights
        added = output[0].numel() // _output_features(layer)
        positions[name] = positions.get(name, 0) + added

    hooks = []
    for name, layer in model.named_modules():
        # Norms without scales cost nothing.
        if isinstance(layer, LAYERS) and getattr(layer, "weight", layer) is not None:
            hooks.append(layer.register_forward_hook(partial(add_positions, name)))

    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()(example.clone().to(next(model.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training

    for name, layer in model.named_modules():
        if isinstance(layer, nn.MultiheadAttention) and name in positions:
            # Attention uses the weights of out_proj without calling it.
            positions[f"{name}.out_proj"] = positions[name]
    return positions


def _output_features(layer: nn.Module) -> int:
    if isinstance(layer, nn.MultiheadAttention):
        return int(layer.embed_dim)
    if isinstance(layer, TRANSPOSED_CONVOLUTIONS):
        return layer.out_channels
    assert isinstance(layer.weight, Tensor)
    return int(layer.weight.shape[0])


def training_macs(model: nn.Module, example: Tensor, images: int) -> int:
    """MACs of training on `images` images like `example`; an image counts once per epoch."""
    if images == 0:
        return 0
    return TRAINING_PASSES * macs_at(model, example) * images


def parameters(model: nn.Module) -> int:
    """The number of parameters, zeros included."""
    return sum(parameter.numel() for parameter in model.parameters())
