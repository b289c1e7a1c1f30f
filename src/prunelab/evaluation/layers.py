"""What is left of every layer, and how its weights are spread."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from prunelab.models.catalogue import prunable_weights

BINS = 60


def by_layer(model: nn.Module, dense: nn.Module) -> dict[str, dict[str, float]]:
    """By layer that can be pruned: its width (outputs), weights and non-zero weights, in the dense network and in this.

    `sparsity` is 1 less the non-zero weights ÷ the dense network's, so a thinner layer counts as sparse too.
    """
    left = prunable_weights(model)
    return {
        name.removesuffix(".weight"): {
            "width_dense": weight.shape[0],
            "width": left[name].shape[0],
            "weights_dense": weight.numel(),
            "weights": left[name].numel(),
            "weights_nonzero": int(left[name].count_nonzero()),
            "sparsity": 1 - int(left[name].count_nonzero()) / weight.numel(),
        }
        for name, weight in prunable_weights(dense).items()
    }


def histogram(models: Sequence[nn.Module]) -> dict[str, Any]:
    """How often the prunable weights of all networks lie where, from -`limit` to `limit` in bins of one width.

    Zeros are counted apart: of a masked network they would dwarf all else.
    """
    values = np.concatenate(
        [
            weight.detach().cpu().numpy().ravel()
            for model in models
            for weight in prunable_weights(model).values()
        ]
    )
    left = values[values != 0]
    limit = max(float(np.abs(left).max(initial=0)), 1e-6)
    counts, _ = np.histogram(left, BINS, (-limit, limit))
    return {"limit": limit, "zeros": len(values) - len(left), "counts": counts.tolist()}
