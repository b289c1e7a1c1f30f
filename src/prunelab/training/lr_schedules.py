"""LR_SCHEDULES: how the learning rate changes in a training, by name. No torch."""

import math
from collections.abc import Callable

from prunelab.config.params import Recipe
from prunelab.core.registry import Table, pick
from prunelab.core.text import abbreviate

# Takes the recipe and the progress after the warm-up, 0 to below 1; returns the factor, 0 or more,
# that multiplies the recipe's learning rate.
LrSchedule = Callable[[Recipe, float], float]


def lr_factor(recipe: Recipe, step: int, total_steps: int) -> float:
    """The factor, 0 to 1, that multiplies the learning rate at `step`, 0 to total_steps - 1.

    It rises linearly over the first `warmup` share of the steps and then follows the schedule. It
    depends on the step alone, so that a resumed run needs no scheduler state. A schedule of a
    plugin may go above 1.

    Raises:
        InputError: if there is no such schedule, or if it returns no number of 0 or more.
    """
    schedule = pick(LR_SCHEDULES, recipe.schedule, "lr_schedule")
    warmup_steps = recipe.warmup * total_steps
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)

    progress = (step - warmup_steps) / max(1.0, total_steps - warmup_steps)
    factor = schedule(recipe, progress)
    if not isinstance(factor, int | float) or not 0 <= factor < math.inf:
        LR_SCHEDULES.refuse(
            recipe.schedule,
            f"returns {abbreviate(factor)} at progress {progress:g}; return a number of 0 or more",
        )
    return factor


def constant(recipe: Recipe, progress: float) -> float:
    """The rate stays as it is: 1."""
    return 1.0


def step(recipe: Recipe, progress: float) -> float:
    """The rate is multiplied by `gamma` at each of `milestones`: gamma ** milestones passed."""
    return recipe.gamma ** sum(progress >= milestone for milestone in recipe.milestones)


def cosine(recipe: Recipe, progress: float) -> float:
    """Half a cosine down to 0: (1 + cos(pi * progress)) / 2 (Loshchilov & Hutter 2017)."""
    return (1 + math.cos(math.pi * progress)) / 2


def one_cycle(recipe: Recipe, progress: float) -> float:
    """A straight line down to 0: 1 - progress."""
    return 1 - progress


_ENTRIES: dict[str, LrSchedule] = {
    "constant": constant,
    "step": step,
    "cosine": cosine,
    "one_cycle": one_cycle,
}
LR_SCHEDULES = Table("lr_schedule", _ENTRIES, called_with=("recipe", "progress"))
