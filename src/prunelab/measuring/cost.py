"""What a network costs on paper: parameters, sparsity and multiply-accumulates (MACs)."""

import warnings
from copy import deepcopy

from torch import nn

from prunelab.models.catalogue import Shape, example, prunable_weights

TRAINING_PASSES = 3  # forward, and backward to inputs and to weights: about the same work each


def macs(model: nn.Module, shape: Shape) -> int:
    """Multiply-accumulates of one input, as torchprofile counts them; a zeroed weight costs like any other."""
    from torchprofile import profile_macs

    copy = deepcopy(model).cpu().float().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated in torch, and kinds of operators are skipped on purpose
        return int(profile_macs(copy, example(shape)))  # type: ignore[arg-type]


def cost(model: nn.Module, dense: nn.Module, shape: Shape) -> dict[str, float]:
    """Counts for `model`, and ratios against the dense network it came from (dense ÷ this, so 2 is half the cost).

    `sparsity` is 1 less non-zero prunable weights ÷ the dense network's prunable weights, so thinner nets count too.
    """
    dense_weights = sum(weight.numel() for weight in prunable_weights(dense).values())
    nonzero_weights = sum(int(weight.count_nonzero()) for weight in prunable_weights(model).values())
    ours, theirs = macs(model, shape), macs(dense, shape)
    parameters, dense_parameters = _parameters(model), _parameters(dense)
    return {
        "params": parameters,
        "params_nonzero": sum(int(parameter.count_nonzero()) for parameter in model.parameters()),
        "params_ratio": dense_parameters / parameters,
        "sparsity": 1 - nonzero_weights / dense_weights,
        "macs": ours,
        "macs_ratio": theirs / ours,
    }


def training_macs(model: nn.Module, shape: Shape, images: int) -> int:
    """MACs spent on training with so many images (an image counts once per epoch)."""
    return TRAINING_PASSES * macs(model, shape) * images


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
