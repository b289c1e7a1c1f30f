"""Masks over a network's weights while it trains: apply them, hold them, verify them. True keeps a weight."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Masks = dict[str, Tensor]


def apply(model: nn.Module, masks: Masks) -> None:
    """Zero the weights that the masks drop."""
    hold(model, masks)()


def hold(model: nn.Module, masks: Masks) -> Callable[[], None]:
    """A function that zeroes the dropped weights again: for after every optimiser step, which revives them."""
    parameters = dict(model.named_parameters())
    # In the weights' own memory order, which is what makes the fill fast. Filling, unlike a product with zero, leaves
    # neither a negative zero nor a NaN behind.
    dropped = [
        (parameters[name], torch.empty_like(parameters[name], dtype=torch.bool).copy_(~mask))
        for name, mask in masks.items()
    ]

    def zero_dropped() -> None:
        with torch.no_grad():
            for weight, gone in dropped:
                weight.masked_fill_(gone, 0)

    return zero_dropped


def verify(model: nn.Module, masks: Masks) -> None:
    """Assert that every dropped weight is zero.

    Raises:
        AssertionError: naming the layer; this is a defect of the program, never of its input.
    """
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        revived = int(parameters[name].detach().cpu()[~mask.cpu()].count_nonzero())
        assert revived == 0, f"{revived} dropped weights of {name} are not zero"
