"""What remains of every layer, and how the weights are distributed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from prunelab.models.networks import prunable_weights

BINS = 60
MIN_LIMIT = 1e-6  # so that a network of zeros has a histogram too


def by_layer(model: nn.Module, dense: nn.Module) -> dict[str, dict[str, float]]:
    """The width, weights and non-zero weights of every prunable layer, in `model` and in `dense`.

    `width` is the number of outputs. `sparsity` is 1 minus the non-zero weights of `model` divided
    by the weights of `dense`, so a thinner layer counts as sparse too.
    """
    remaining = prunable_weights(model)
    layers: dict[str, dict[str, float]] = {}

    for name, dense_weight in prunable_weights(dense).items():
        weight = remaining[name]
        nonzero = int(weight.count_nonzero())

        layers[name.removesuffix(".weight")] = {
            "width_dense": dense_weight.shape[0],
            "width": weight.shape[0],
            "weights_dense": dense_weight.numel(),
            "weights": weight.numel(),
            "weights_nonzero": nonzero,
            "sparsity": 1 - nonzero / dense_weight.numel(),
        }

    return layers


def histogram(models: Sequence[nn.Module]) -> dict[str, Any]:
    """The distribution of the prunable weights of all networks together.

    `counts` has `BINS` bins of the same width, from -`limit` to `limit`. Zeros are counted
    separately as `zeros`: in a masked network they would dwarf every other bin.
    """
    weights = []
    for model in models:
        for weight in prunable_weights(model).values():
            weights.append(weight.detach().cpu().numpy().ravel())

    values = np.concatenate(weights)
    nonzero = values[values != 0]

    limit = max(float(np.abs(nonzero).max(initial=0)), MIN_LIMIT)
    counts, _ = np.histogram(nonzero, BINS, (-limit, limit))

    return {"limit": limit, "zeros": len(values) - len(nonzero), "counts": counts.tolist()}
