"""Optimizers and learning-rate schedules out of a recipe."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from prunelab.config.params import Recipe

ParamGroups = list[dict[str, Any]]


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer. Weight decay acts on weights only, not on biases and norms."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = [parameter for parameter in trained if parameter.dim() > 1]
    biases_and_norms = [parameter for parameter in trained if parameter.dim() <= 1]

    groups: ParamGroups = [
        {"params": weights, "weight_decay": recipe.weight_decay},
        {"params": biases_and_norms, "weight_decay": 0.0},
    ]
    return OPTIMIZERS[recipe.optimizer](groups, recipe)


def _sgd(groups: ParamGroups, recipe: Recipe) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        groups,
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        fused=True,
    )


def _adam(groups: ParamGroups, recipe: Recipe) -> torch.optim.Optimizer:
    betas = (recipe.momentum, 0.999)
    return torch.optim.Adam(groups, lr=recipe.learning_rate, betas=betas, fused=True)


def _adamw(groups: ParamGroups, recipe: Recipe) -> torch.optim.Optimizer:
    betas = (recipe.momentum, 0.999)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=betas, fused=True)


OPTIMIZERS: dict[str, Callable[[ParamGroups, Recipe], torch.optim.Optimizer]] = {
    "sgd": _sgd,
    "adam": _adam,
    "adamw": _adamw,
}


def lr_factor(recipe: Recipe, step: int, total_steps: int) -> float:
    """The factor, 0 to 1, that multiplies the learning rate at `step`, 0 to total_steps - 1.

    It rises linearly over the first `warmup` share of the steps and then follows the schedule. It
    depends on the step alone, so that a resumed run needs no scheduler state.
    """
    warmup_steps = recipe.warmup * total_steps
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)

    progress = (step - warmup_steps) / max(1.0, total_steps - warmup_steps)
    return SCHEDULES[recipe.schedule](recipe, progress)


def _constant(recipe: Recipe, progress: float) -> float:
    return 1.0


def _step(recipe: Recipe, progress: float) -> float:
    return recipe.gamma ** sum(progress >= milestone for milestone in recipe.milestones)


def _cosine(recipe: Recipe, progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


def _one_cycle(recipe: Recipe, progress: float) -> float:
    return 1 - progress


# Each takes the recipe and the progress after the warm-up, 0 to below 1.
SCHEDULES: dict[str, Callable[[Recipe, float], float]] = {
    "constant": _constant,
    "step": _step,
    "cosine": _cosine,
    "one_cycle": _one_cycle,
}
