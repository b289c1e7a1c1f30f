"""Operators of torch whose result depends on the processor even if bits are portable, done exactly.

MKL takes roots of large tensors by an approximation that processors of different vendors, or
models, answer differently. A correctly rounded result is the same everywhere.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor


def sqrt(values: Tensor) -> Tensor:
    """The correctly rounded square root; its gradient is that of `torch.sqrt`.

    Args:
        values: float32 or float64, of any shape and on any device.
    """
    root: Tensor = _Sqrt.apply(values)
    return root


def distances(points: Tensor) -> Tensor:
    """The Euclidean distances between all rows of `points` [count, size]: [count, count]."""
    # By default, torch computes large cases by a product of matrices, and takes roots of that.
    return torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")


class _Sqrt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        if values.device.type == "cpu":
            root = torch.empty_like(values)
            np.sqrt(values.numpy(), out=root.numpy())
        else:
            root = values.sqrt()  # GPUs round correctly
        ctx.save_for_backward(root)
        return root

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (root,) = ctx.saved_tensors
        gradient: Tensor = gradients[0] / (2 * root)
        return gradient
