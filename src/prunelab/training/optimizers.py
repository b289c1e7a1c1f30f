"""Optimizers and learning-rate schedules out of a recipe.

The optimizers call torch's fused kernels and give the bits of `torch.optim` with `fused=True`.
They exist because `torch.optim` imports torch's compiler when an optimizer is made, which costs a
stage seconds, and because a recorded step needs state that stays at its addresses.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunelab.config.params import Recipe
from prunelab.models.frozen import within

ADAM_BETA2 = 0.999
ADAM_EPSILON = 1e-8

OptimizerState = dict[str, Any]


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters, float32 on one device, that share a weight decay and a factor of the rate."""

    parameters: Sequence[nn.Parameter]
    weight_decay: float
    rate: float = 1.0


class Optimizer(ABC):
    """Updates parameters in place by their gradients.

    A parameter without a gradient is left as it is, and so is its state.
    """

    def __init__(self, groups: Sequence[ParameterGroup]) -> None:
        self.groups = list(groups)
        self._state: dict[nn.Parameter, dict[str, Tensor]] = {}

    def zero_grad(self) -> None:
        """Remove all gradients."""
        for parameter in self._parameters():
            parameter.grad = None

    @torch.no_grad()
    def step(self, lr: float | Tensor) -> None:
        """Update every parameter that has a gradient.

        `lr` is the learning rate: a number, or a scalar float32 tensor on the parameters' device.
        """
        for group in self.groups:
            trained = [each for each in group.parameters if each.grad is not None]
            fresh = [each for each in trained if each not in self._state]
            known = [each for each in trained if each in self._state]
            for parameter in fresh:
                self._state[parameter] = self._initial_state(parameter)

            group_lr = lr
            if group.rate != 1:
                group_lr = lr * group.rate
            if fresh:
                self._update(fresh, group.weight_decay, group_lr, first=True)
            if known:
                self._update(known, group.weight_decay, group_lr, first=False)

    def state_dict(self) -> OptimizerState:
        """The state of every parameter by its number; tensors are not copied."""
        state = {}
        for number, parameter in enumerate(self._parameters()):
            if parameter in self._state:
                state[number] = dict(self._state[parameter])
        return {"state": state}

    def load_state_dict(self, saved: OptimizerState) -> None:
        """Load what `state_dict` returned. Tensors that exist keep their addresses."""
        for number, parameter in enumerate(self._parameters()):
            if number not in saved["state"]:
                self._state.pop(parameter, None)
                continue

            state = self._state.setdefault(parameter, {})
            for name, value in saved["state"][number].items():
                if name not in state:
                    state[name] = torch.empty_like(value, device=parameter.device)
                state[name].copy_(value)

    @abstractmethod
    def _initial_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """The state of a parameter before its first update, on the parameter's device."""

    @abstractmethod
    def _update(
        self,
        parameters: Sequence[nn.Parameter],
        weight_decay: float,
        lr: float | Tensor,
        *,
        first: bool,
    ) -> None:
        """Update parameters that have a gradient and state; `first` if they never were before."""

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.groups for parameter in group.parameters]

    def _states(self, parameters: Sequence[nn.Parameter], name: str) -> list[Tensor]:
        return [self._state[parameter][name] for parameter in parameters]


class SGD(Optimizer):
    """Stochastic gradient descent with Nesterov momentum; a momentum of 0 is plain descent."""

    def __init__(self, groups: Sequence[ParameterGroup], momentum: float) -> None:
        super().__init__(groups)
        self._momentum = momentum

    def _initial_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        if self._momentum == 0:
            return {}
        # The first update fills it. The kernel wants it to be laid out as the gradient is.
        assert parameter.grad is not None
        return {"momentum": torch.empty_like(parameter.grad)}

    def _update(
        self,
        parameters: Sequence[nn.Parameter],
        weight_decay: float,
        lr: float | Tensor,
        *,
        first: bool,
    ) -> None:
        rate: Any = lr  # torch's stubs know numbers and tensors, but not either
        momenta = []
        if self._momentum != 0:
            momenta = self._states(parameters, "momentum")

        torch._fused_sgd_(
            list(parameters),
            _gradients(parameters),
            momenta,
            weight_decay=weight_decay,
            momentum=self._momentum,
            lr=rate,
            dampening=0.0,
            nesterov=self._momentum > 0,
            maximize=False,
            is_first_step=first and self._momentum != 0,
        )


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015); weight decay is added to the gradients."""

    _kernel = staticmethod(torch._fused_adam_)

    def __init__(self, groups: Sequence[ParameterGroup], beta1: float) -> None:
        super().__init__(groups)
        self._beta1 = beta1

    def _initial_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        return {
            "steps": torch.zeros((), device=parameter.device),
            "mean": torch.zeros_like(parameter),
            "mean_square": torch.zeros_like(parameter),
        }

    def _update(
        self,
        parameters: Sequence[nn.Parameter],
        weight_decay: float,
        lr: float | Tensor,
        *,
        first: bool,
    ) -> None:
        rate: Any = lr
        steps = self._states(parameters, "steps")
        torch._foreach_add_(steps, 1)

        self._kernel(
            list(parameters),
            _gradients(parameters),
            self._states(parameters, "mean"),
            self._states(parameters, "mean_square"),
            [],  # of a variant with maxima of the squares
            steps,
            lr=rate,
            beta1=self._beta1,
            beta2=ADAM_BETA2,
            weight_decay=weight_decay,
            eps=ADAM_EPSILON,
            amsgrad=False,
            maximize=False,
        )


class AdamW(Adam):
    """Adam whose weight decay shrinks the weights directly (Loshchilov & Hutter 2019)."""

    _kernel = staticmethod(torch._fused_adamw_)


def _gradients(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def build_optimizer(model: nn.Module, recipe: Recipe, head: str = "") -> Optimizer:
    """The recipe's optimizer. Weight decay acts on weights only, not on biases and norms.

    `head` is the layer that learns at the recipe's rate if `backbone_rate` slows down the others.
    """
    in_backbone, in_head = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if recipe.backbone_rate != 1 and within(name, head):
            in_head.append(parameter)
        else:
            in_backbone.append(parameter)

    groups = _groups(in_backbone, recipe.weight_decay, recipe.backbone_rate)
    if in_head:
        groups += _groups(in_head, recipe.weight_decay)
    return OPTIMIZERS[recipe.optimizer](groups, recipe.momentum)


def _groups(
    parameters: Sequence[nn.Parameter], weight_decay: float, rate: float = 1.0
) -> list[ParameterGroup]:
    """Weights, and then biases and norms."""
    weights = [parameter for parameter in parameters if parameter.dim() > 1]
    biases_and_norms = [parameter for parameter in parameters if parameter.dim() <= 1]
    return [
        ParameterGroup(weights, weight_decay, rate),
        ParameterGroup(biases_and_norms, weight_decay=0.0, rate=rate),
    ]


# Each takes the parameters and the recipe's momentum, which is Adam's beta1.
OPTIMIZERS: dict[str, Callable[[Sequence[ParameterGroup], float], Optimizer]] = {
    "sgd": SGD,
    "adam": Adam,
    "adamw": AdamW,
}
