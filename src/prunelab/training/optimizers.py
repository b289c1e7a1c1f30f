"""Optimisers and learning-rate schedules out of a recipe."""

import math
from collections.abc import Callable

import torch
from torch import nn

from prunelab.config.params import Recipe


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser; weight decay acts on weights only, not on biases and norms."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return OPTIMISERS[recipe.optimizer](groups, recipe)


OPTIMISERS: dict[str, Callable[[list[dict], Recipe], torch.optim.Optimizer]] = {
    "sgd": lambda groups, r: torch.optim.SGD(
        groups, lr=r.learning_rate, momentum=r.momentum, nesterov=r.momentum > 0, fused=True
    ),
    "adam": lambda groups, r: torch.optim.Adam(
        groups, lr=r.learning_rate, betas=(r.momentum, 0.999), fused=True
    ),
    "adamw": lambda groups, r: torch.optim.AdamW(
        groups, lr=r.learning_rate, betas=(r.momentum, 0.999), fused=True
    ),
}


def lr_factor(recipe: Recipe, step: int, steps: int) -> float:
    """What to multiply the learning rate with at `step`, 0 to steps - 1.

    It rises linearly over the first `warmup` of all steps and then follows the schedule. Computed from the step alone,
    so that a resumed run needs no scheduler state.
    """
    warmup_steps = recipe.warmup * steps
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1.0, steps - warmup_steps)
    return SCHEDULES[recipe.schedule](recipe, progress)


def _step(recipe: Recipe, progress: float) -> float:
    return recipe.gamma ** sum(progress >= milestone for milestone in recipe.milestones)


# Each takes the recipe and the progress after the warm-up, 0 to below 1.
SCHEDULES: dict[str, Callable[[Recipe, float], float]] = {
    "constant": lambda recipe, progress: 1.0,
    "step": _step,
    "cosine": lambda recipe, progress: (1 + math.cos(math.pi * progress)) / 2,
    "one_cycle": lambda recipe, progress: 1 - progress,
}
