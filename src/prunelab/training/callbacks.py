"""What a method does to a network while it trains."""

from collections.abc import Callable

from torch import Tensor


class Callback:
    """The hooks of a training; this one does nothing.

    A resumed run begins with `before_epoch`, so a callback must find all it needs in the weights
    and the epoch: it must not rely on what it saw in earlier epochs.
    """

    def before_epoch(self, epoch: int) -> None:
        """Called before every epoch. The first epoch of a recipe is 0."""

    def penalty(self, progress: float) -> Tensor | None:
        """A term to add to the loss of a step, or None.

        `progress` is the finished share of the training, from 0 to below 1.
        """
        return None

    def after_step(self, progress: float) -> None:
        """Called after every optimizer step, with the progress before that step."""


class CallAfterStep(Callback):
    """Calls a function after every optimizer step."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function

    def after_step(self, progress: float) -> None:
        self._function()
