"""Training and examples for pruning, by what a script passes: a train function and batches."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from prunelab.api.inputs import batches_of
from prunelab.pruning.criteria import LossFunction
from prunelab.training.callbacks import Callback
from prunelab.training.trainer import TrainResult

TrainFunction = Callable[[nn.Module], object]  # trains a network in place for one epoch


@dataclass(frozen=True)
class ScriptTraining:
    """The training that schedules ask for, done by a function of the caller's.

    Callbacks act at every step of whatever optimizer the function uses, through torch's hooks. The
    progress of a training, which some schedules depend on, rises from epoch to epoch only.

    Args:
        device: where networks are trained and scored
        example: an input, [1, ...], which stands for examples if there are none
        batches: examples for criteria and norms
        train: trains a network in place for one epoch; None if nothing does
        loss: that of criteria that look at gradients; None stands for cross-entropy
    """

    device: torch.device
    example: Tensor
    batches: Sequence[tuple[Tensor, Tensor]] = ()
    train: TrainFunction | None = None
    loss: LossFunction | None = None

    def place(self, model: nn.Module) -> None:
        model.to(self.device)

    def sample_batches(self, examples: int) -> Iterable[tuple[Tensor, Tensor]]:
        if not self.batches:
            label = torch.zeros(1, dtype=torch.int64, device=self.device)
            return [(self.example.to(self.device), label)]

        batches = batches_of(self.batches, examples)
        return [(inputs.to(self.device), targets.to(self.device)) for inputs, targets in batches]

    def fine_tune(
        self, model: nn.Module, epochs: int, *, callback: Callback, name: str
    ) -> TrainResult:
        assert self.train is not None, "this schedule trains"
        self.place(model)
        for epoch in range(epochs):
            callback.before_epoch(epoch)
            model.train()
            with _at_every_step(callback, epoch / epochs):
                self.train(model)
            callback.after_step()  # whatever the function did besides its optimizer's steps

        model.eval()
        return TrainResult()

    def retrain_from_rewind(
        self, model: nn.Module, *, callback: Callback, name: str
    ) -> TrainResult:
        raise AssertionError("methods that rewind are refused")

    def accuracies(self, model: nn.Module) -> tuple[float, float] | None:
        return None


@contextmanager
def _at_every_step(callback: Callback, progress: float) -> Iterator[None]:
    """Call a callback before and after every step of any optimizer."""

    def before(optimizer: Optimizer, args: object, kwargs: object) -> None:
        callback.before_step(progress)
        with torch.enable_grad():
            penalty = callback.penalty(progress)
            if penalty is not None and penalty.requires_grad:
                _add_gradients(penalty, optimizer)

    def after(optimizer: Optimizer, args: object, kwargs: object) -> None:
        callback.after_step()

    handles = [register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _add_gradients(penalty: Tensor, optimizer: Optimizer) -> None:
    """Add the gradients of a penalty for what an optimizer is about to change.

    Others may have steps of their own, with another optimizer.
    """
    parameters = []
    for group in optimizer.param_groups:
        parameters += [parameter for parameter in group["params"] if parameter.requires_grad]
    if not parameters:
        return

    gradients = torch.autograd.grad(penalty, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            continue
        if parameter.grad is None:
            parameter.grad = gradient
        else:
            parameter.grad += gradient
