"""Tries of augmentations, metrics and learning-rate schedules, as a training would call them."""

import numpy as np

from prunelab.config.params import Recipe
from prunelab.data.augmentations import AUGMENTATIONS, DRAWS, augment
from prunelab.evaluation.metric_table import METRICS, measure
from prunelab.training.lr_schedules import LR_SCHEDULES, lr_factor

BATCH, SIDE = 4, 8
STEPS = 50
CLASSES = 10


def check_augmentation(name: str) -> None:
    """Change grey and colour images by an augmentation, twice.

    Raises:
        InputError: if it returns something else than images of the same shape, changes its inputs,
            draws random numbers of its own, or returns numbers that are not finite.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    for channels in (1, 3):
        images = torch.rand(BATCH, channels, SIDE, SIDE + 1, generator=generator)
        random = torch.rand(BATCH, 1, DRAWS, generator=generator)
        before = images.clone()

        first = augment(images, random, [name])
        if not torch.equal(images, before):
            AUGMENTATIONS.refuse(name, "changes its inputs; work on a copy of the images")
        if not first.isfinite().all():
            AUGMENTATIONS.refuse(name, "returns numbers that are not finite")
        if not torch.equal(first, augment(images, random, [name])):
            AUGMENTATIONS.refuse(
                name, "draws random numbers of its own; use those in its second argument"
            )
        alone = augment(images[:1], random[:1], [name])
        if not torch.allclose(alone, first[:1], atol=1e-5):
            AUGMENTATIONS.refuse(
                name, "changes an image by the others in its batch; treat each image by itself"
            )


def check_metric(name: str) -> None:
    """Measure made-up predictions by a metric.

    Raises:
        InputError: if it returns no finite number, or changes its inputs.
    """
    from prunelab.evaluation.predict import Predictions

    random = np.random.default_rng(0)
    labels = random.integers(CLASSES, size=100)
    predicted = np.where(random.random(100) < 0.7, labels, random.integers(CLASSES, size=100))
    confidences = random.uniform(0.1, 1, 100)
    predictions = Predictions(
        predicted[None], -np.log(confidences)[None], confidences[None], (predicted == labels)[None]
    )
    before = labels.copy(), predicted.copy()

    measure([name], labels, predictions)
    if not (np.array_equal(labels, before[0]) and np.array_equal(predicted, before[1])):
        METRICS.refuse(name, "changes its inputs; work on copies of the arrays")


def check_lr_schedule(name: str) -> None:
    """Ask a learning-rate schedule for the factors of a whole training.

    Raises:
        InputError: if one is no number of 0 or more, if all are 0, or if they are others when it is
            asked again.
    """
    recipe = Recipe(
        epochs=5,
        batch_size=64,
        optimizer="sgd",
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=0.0,
        schedule=name,
        warmup=0.0,
        milestones=[0.5, 0.75],
        gamma=0.1,
        label_smoothing=0.0,
    )

    first = [lr_factor(recipe, step, STEPS) for step in range(STEPS)]
    again = [lr_factor(recipe, step, STEPS) for step in range(STEPS)]
    if first != again:
        LR_SCHEDULES.refuse(
            name, "returns another factor when it is asked again; let it depend on progress alone"
        )
    if not any(first):
        LR_SCHEDULES.refuse(name, "is 0 at every step; return the factor of the learning rate")
