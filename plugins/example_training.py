"""A change to training images and a learning-rate schedule of this project's own.

Nothing of them runs unless `data.augment` and `train.schedule` or `finetune.schedule` name them.
"""

import math

from torch import Tensor

from prunelab.config.params import Recipe
from prunelab.data.augmentations import AUGMENTATIONS
from prunelab.training.lr_schedules import LR_SCHEDULES


@AUGMENTATIONS.register("contrast")
def contrast(images: Tensor, random: Tensor) -> Tensor:
    """Stretch or shrink each image's distances from its mean by a factor of 0.5 to 1.5."""
    factors = (0.5 + random[:, 0]).view(-1, 1, 1, 1)
    means = images.mean((1, 2, 3), keepdim=True)
    return (means + factors * (images - means)).clamp(0, 1)


@LR_SCHEDULES.register("two_cosines")
def two_cosines(recipe: Recipe, progress: float) -> float:
    """Half a cosine down to 0, twice: a warm restart in the middle (Loshchilov & Hutter 2017)."""
    return (1 + math.cos(2 * math.pi * (progress % 0.5))) / 2
