"""Whether a network draws random numbers while it trains."""

from torch import nn

# What layers that drop activations call the share they drop: dropout, attention, stochastic depth,
# and networks of timm that drop features before the head without a layer for it.
_SHARES = ("p", "dropout", "dropout_p", "drop_prob", "drop_rate")


def draws_random_numbers(model: nn.Module) -> bool:
    """Whether a layer of the network drops activations at random in training mode."""
    for module in model.modules():
        for name in _SHARES:
            share = getattr(module, name, 0)
            if isinstance(share, float) and share > 0:
                return True
    return False
