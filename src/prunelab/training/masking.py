"""Masks over a network's weights while it trains: apply, hold and verify them.

A mask is a boolean tensor of its weight's shape: True keeps a weight, False drops it. Choosing
masks is the business of `prunelab.pruning`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

Masks = dict[str, Tensor]  # by the name of the weight tensor


def apply(model: nn.Module, masks: Masks) -> None:
    """Zero the weights that the masks drop."""
    zero_dropped = hold(model, masks)
    zero_dropped()


class HeldMasks:
    """Zeroes the dropped weights of a network again whenever it is called.

    An optimizer step revives dropped weights (by momentum, for example), so call it after every
    step. The masks take their weights' memory order, which makes the fill fast, and stay in the
    same tensors when they change.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._weights = weights
        self._dropped = {
            name: torch.zeros_like(weight, dtype=torch.bool) for name, weight in weights.items()
        }

    def update(self, masks: Masks) -> None:
        """Hold these masks from now on; weights without a mask are kept."""
        for name, dropped in self._dropped.items():
            if name in masks:
                dropped.copy_(~masks[name])
            else:
                dropped.zero_()

    def __call__(self) -> None:
        # A fill, unlike a product with zero, leaves neither a negative zero nor a NaN behind.
        with torch.no_grad():
            for name, dropped in self._dropped.items():
                self._weights[name].masked_fill_(dropped, 0)


def hold(model: nn.Module, masks: Masks) -> HeldMasks:
    """Masks of a network, to be called after every optimizer step."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    held = HeldMasks({name: parameters[name] for name in masks})
    held.update(masks)
    return held


def verify(model: nn.Module, masks: Masks) -> None:
    """Assert that every dropped weight is zero.

    Raises:
        AssertionError: if one is not. It names the layer. This is a defect of the program, never of
            its input.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))

    for name, mask in masks.items():
        weight = parameters[name].detach().cpu()
        revived = int(weight[~mask.cpu()].count_nonzero())
        assert revived == 0, f"{revived} dropped weights of {name} are not zero"
