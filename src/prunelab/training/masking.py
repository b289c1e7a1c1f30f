"""Masks over a network's weights while it trains: apply, hold and verify them.

A mask is a boolean tensor of its weight's shape: True keeps a weight, False drops it. Choosing
masks is the business of `prunelab.pruning`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Masks = dict[str, Tensor]  # by the name of the weight tensor


def apply(model: nn.Module, masks: Masks) -> None:
    """Zero the weights that the masks drop."""
    zero_dropped = hold(model, masks)
    zero_dropped()


def hold(model: nn.Module, masks: Masks) -> Callable[[], None]:
    """Return a function that zeroes the dropped weights again.

    An optimiser step revives dropped weights (by momentum, for example), so call the function
    after every step.
    """
    parameters = dict(model.named_parameters())

    # The masks take their weights' memory order, which makes the fill fast. A fill, unlike a
    # product with zero, leaves neither a negative zero nor a NaN behind.
    dropped_weights: list[tuple[Tensor, Tensor]] = []
    for name, mask in masks.items():
        weight = parameters[name]
        dropped = torch.empty_like(weight, dtype=torch.bool).copy_(~mask)
        dropped_weights.append((weight, dropped))

    def zero_dropped() -> None:
        with torch.no_grad():
            for weight, dropped in dropped_weights:
                weight.masked_fill_(dropped, 0)

    return zero_dropped


def verify(model: nn.Module, masks: Masks) -> None:
    """Assert that every dropped weight is zero.

    Raises:
        AssertionError: if one is not. It names the layer. This is a defect of the program, never of
            its input.
    """
    parameters = dict(model.named_parameters())

    for name, mask in masks.items():
        weight = parameters[name].detach().cpu()
        revived = int(weight[~mask.cpu()].count_nonzero())
        assert revived == 0, f"{revived} dropped weights of {name} are not zero"
