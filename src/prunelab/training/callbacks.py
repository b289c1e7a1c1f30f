"""What a method does to a network while it trains."""

from collections.abc import Callable

from torch import Tensor


class Callback:
    """The hooks of a training; this one does nothing.

    A resumed run begins with `before_epoch`, so a callback must find all it needs in the weights
    and the epoch: it must not rely on what it saw in earlier epochs.

    On a GPU `penalty` and `after_step` are called a few times and recorded: later steps repeat
    their operations on the same tensors, without calling them.
    """

    def before_epoch(self, epoch: int) -> None:
        """Called before every epoch. The first epoch of a recipe is 0."""

    def before_step(self, progress: float) -> bool:
        """Called before every step, with the finished share of the training, 0 to below 1.

        Returns whether this step differs from the others, so that it must not be a recorded one.
        """
        return False

    def penalty(self, progress: float | Tensor) -> Tensor | None:
        """A term to add to the loss of a step, or None.

        `progress` is that of `before_step`, as a number or as a scalar tensor on the device.
        """
        return None

    def after_step(self) -> None:
        """Called after every optimizer step."""


class CallAfterStep(Callback):
    """Calls a function after every optimizer step; it does the same tensor operations each time."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function

    def after_step(self) -> None:
        self._function()
