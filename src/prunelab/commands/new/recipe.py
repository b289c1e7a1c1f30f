"""Parameters that fit one's own data, each with the reason why it was chosen.

The rules are rules of thumb; the numbers in them are constants here. `prunelab new` prints the
reasons, so that whoever knows better can change a value.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np

from prunelab.commands.common import core_count
from prunelab.commands.gpus import devices
from prunelab.commands.new.survey import LETTERS_PER_TOKEN, Survey
from prunelab.core.errors import InputError
from prunelab.data.split_sizes import split_problems
from prunelab.encoders.pretrained import NO_WEIGHTS
from prunelab.models.catalogue import TIMM_PREFIX, find_architecture
from prunelab.models.weights_packages import (
    IMAGENET,
    IMAGENET_MEAN,
    IMAGENET_STD,
    find_package,
    package_file,
)

# A package carries its ImageNet weights (extra `lite`), so they need no download.
LITE = "timm/tf_efficientnet_lite0"

# Images of at most so many pixels keep their size, and are shifted rather than cropped.
SMALL_SIDE = 64
# Networks for photographs were made for this; on a CPU a third of it trains three times faster.
FULL_SIDE = 224
CPU_SIDE = 128
SIDE_STEP = 32  # what networks shrink images by

# (share for test, share of the rest for validation), the usual ones first; small classes need more.
FRACTIONS = ((0.2, 0.1), (0.2, 0.2), (0.25, 0.25), (0.3, 0.3), (0.34, 0.5))

BATCH_SIZES = (128, 64, 32, 16, 8)
MIN_STEPS = 8  # of an epoch
MEMORY_SHARE = 0.25  # of what is free, for the activations of a training step
# A step keeps every activation and its gradient.
COPIES = 2

# How many examples training should see in all, and between which epochs.
SCRATCH_EXAMPLES, SCRATCH_EPOCHS = 600_000, (15, 60)
TRANSFER_EXAMPLES, TRANSFER_EPOCHS = 60_000, (4, 15)
FINETUNE_SHARE = 0.3  # of the epochs of base training

GRID = {"methods": ["random_channel", "l1_channel"], "ratios": [0.3, 0.5, 0.7]}
FOCUS_RATIO = 0.5


@dataclass(frozen=True)
class Choice:
    """Values of params.yaml that belong together, and why they were chosen."""

    values: dict[str, Any]
    what: str
    why: str

    def line(self) -> str:
        return f"{self.what}: {self.why}"


@dataclass
class Recipe:
    """Choices in the order in which they are printed."""

    choices: list[Choice] = field(default_factory=list)

    def choose(self, values: dict[str, Any], what: str, why: str) -> None:
        self.choices.append(Choice(values, what, why))

    def values(self) -> dict[str, Any]:
        """All values, nested by section."""
        merged: dict[str, Any] = {}
        for choice in self.choices:
            for key, value in choice.values.items():
                section, dot, name = key.partition(".")
                if dot:
                    merged.setdefault(section, {})[name] = value
                else:
                    merged[key] = value
        return merged

    def lines(self) -> Iterator[str]:
        for choice in self.choices:
            yield choice.line()


def image_recipe(survey: Survey, model: str | None, weights: str | None) -> Recipe:
    """Parameters for photographs.

    Args:
        survey: what they are like
        model: the network; None chooses one
        weights: what it starts from: `none`, `imagenet` or a file; None chooses if `model` is None

    Raises:
        InputError: if there is no such network, or if no split fits the classes.
    """
    recipe = Recipe()
    name, start, why = _choose_start(survey, model, weights)
    find_architecture(name)  # raises
    pretrained = start != NO_WEIGHTS

    side = _choose_side(recipe, survey, pretrained)
    recipe.choose(
        {"dataset": "imagefolder", "model": name, "weights": start},
        f"model: {name}, weights: {start}",
        why,
    )
    _choose_source(recipe, survey)

    _choose_normalisation(recipe, name, start)
    _choose_interpolation(recipe, name, start)
    _choose_augmentation(recipe, side, pretrained)

    train_images = _choose_splits(recipe, survey)
    batch_size = _choose_batch_size(recipe, name, len(survey.counts.train), side, train_images)
    _choose_training(recipe, train_images, batch_size, pretrained)
    _choose_grid(recipe)
    return recipe


def text_recipe(survey: Survey) -> Recipe:
    """Parameters for texts: a small pretrained encoder that comes with the extra `text`.

    Raises:
        InputError: if no split fits the classes.
    """
    recipe = Recipe()
    recipe.choose(
        {"dataset": "text_tsv", "model": "bert", "weights": "minilm"},
        "model: bert, weights: minilm",
        "a small pretrained encoder that needs no download",
    )
    _choose_source(recipe, survey)

    long_text = float(np.percentile(survey.sides, 95)) / LETTERS_PER_TOKEN + 2
    tokens = min(256, max(16, 2 ** math.ceil(math.log2(long_text))))
    recipe.choose(
        {"data.tokens": tokens},
        f"data.tokens: {tokens}",
        "95 of 100 texts fit, at four letters a token",
    )

    count = _choose_splits(recipe, survey)
    epochs = _epochs(count, TRANSFER_EXAMPLES, (1, 5))
    training: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": 32,
        "optimizer": "adamw",
        "learning_rate": 0.00005,
        "weight_decay": 0.01,
        "warmup": 0.1,
    }
    values = {f"train.{key}": value for key, value in training.items()}
    values |= {f"finetune.{key}": value for key, value in training.items()}
    values |= {"finetune.epochs": max(1, math.ceil(epochs / 2))}
    recipe.choose(
        values,
        f"train: {epochs} epochs of adamw at 0.00005",
        "the usual recipe for a pretrained encoder",
    )
    recipe.choose(
        {
            "method": "l1_head",
            "ratio": 0.5,
            "grid": {"methods": ["random_head", "l1_head"], "ratios": [0.25, 0.5]},
            "evaluate.batch_size": 64,
        },
        "grid: random_head and l1_head at 0.25 and 0.5",
        "heads of attention, with a random control",
    )
    return recipe


def _choose_source(recipe: Recipe, survey: Survey) -> None:
    values = {f"data.{key}": value for key, value in survey.parameters.items()}
    recipe.choose(values, f"data.source: {survey.parameters['source']}", "as given")


def _choose_side(recipe: Recipe, survey: Survey, pretrained: bool) -> int:
    """Choose `data.resize` and return the side of the images as the network sees them."""
    middle = _middle(survey)
    if survey.one_size and max(survey.one_size) <= SMALL_SIDE and not pretrained:
        width, height = survey.one_size
        recipe.choose(
            {"data.resize": None}, "data.resize: null", f"all images have {width}x{height} pixels"
        )
        return min(survey.one_size)

    on_gpu = bool(devices())
    limit = FULL_SIDE if on_gpu else CPU_SIDE
    if pretrained and middle < limit:
        recipe.choose(
            {"data.resize": limit},
            f"data.resize: {limit}",
            f"the weights know large photographs, so those of {middle} pixels are enlarged",
        )
        return limit

    side = min(limit, _multiple(middle))
    why = f"half of the images have {middle} pixels or more on their shorter side"
    if side == limit:
        why += f", and the largest that is chosen on a {'GPU' if on_gpu else 'CPU'} is {limit}"
    recipe.choose({"data.resize": side}, f"data.resize: {side}", why)
    return side


def _middle(survey: Survey) -> int:
    return int(np.median(survey.sides))


def _multiple(side: int) -> int:
    """The largest multiple of what networks shrink images by that is not above a side."""
    return max(SIDE_STEP, side // SIDE_STEP * SIDE_STEP)


def _choose_start(survey: Survey, model: str | None, weights: str | None) -> tuple[str, str, str]:
    """The network, the weights that it starts from, and why."""
    if model is not None:
        return model, weights or NO_WEIGHTS, "as given"
    if _multiple(_middle(survey)) <= SMALL_SIDE and weights in (None, NO_WEIGHTS):
        return "resnet20", NO_WEIGHTS, "a small residual network for small images"
    if weights is None and _has_weights(LITE):
        return LITE, IMAGENET, "weights that know photographs are installed (--weights none: none)"
    return "resnet18", weights or NO_WEIGHTS, "a small residual network for photographs"


def _has_weights(model: str) -> bool:
    """Whether timm and the package with a network's ImageNet weights are installed."""
    package = find_package(IMAGENET, model)
    if package is None or find_spec("timm") is None:
        return False
    try:
        package_file(package)
    except InputError:
        return False
    return True


def _choose_normalisation(recipe: Recipe, model: str, weights: str) -> None:
    if weights != IMAGENET:
        recipe.choose(
            {"data.normalise": None},
            "data.normalise: null",
            "mean and deviation are measured on the training images",
        )
        return

    if model.startswith(TIMM_PREFIX):
        recipe.choose(
            {"data.normalise": None},
            "data.normalise: null",
            "the weights bring the mean and deviation that they were trained with",
        )
        return

    mean, std = list(IMAGENET_MEAN), list(IMAGENET_STD)
    recipe.choose(
        {"data.normalise": {"mean": mean, "std": std}},
        f"data.normalise: mean {mean}, std {std}",
        "the weights were trained on images normalised so",
    )


def _choose_interpolation(recipe: Recipe, model: str, weights: str) -> None:
    package = find_package(weights, model)
    if package is None:
        return
    recipe.choose(
        {"data.interpolation": package.interpolation},
        f"data.interpolation: {package.interpolation}",
        "the images that the weights were trained on were resized so",
    )


def _choose_augmentation(recipe: Recipe, side: int, pretrained: bool) -> None:
    if side <= SMALL_SIDE:
        padding = max(1, side // 8)
        recipe.choose(
            {"data.crop_padding": padding, "data.crop_scale": 1.0, "data.flip": True},
            f"data.crop_padding: {padding}, flip: true",
            "small images are shifted by up to an eighth; set flip to false where left and right "
            "differ, as in writing",
        )
        return

    scale = 0.5 if pretrained else 0.35
    recipe.choose(
        {"data.crop_padding": 0, "data.crop_scale": scale, "data.flip": True},
        f"data.crop_scale: {scale}, flip: true",
        "crops of at least this share of a photograph; set flip to false where left and right "
        "differ, as in writing",
    )


def _choose_splits(recipe: Recipe, survey: Survey) -> int:
    """Choose the fractions, and return the number of examples that are left for training."""
    for test, validation in FRACTIONS:
        if not split_problems(survey.counts, test, validation, 0):
            break

    left = sum(survey.counts.train.values())
    shares = []
    if not survey.counts.has_test:
        left -= math.ceil(test * left)
        shares.append(f"{test:.0%} are for the test")
    if not survey.counts.has_validation:
        left -= math.ceil(validation * left)
        shares.append(f"{validation:.0%} of the rest for validation")
    why = f"{' and '.join(shares) or 'all splits are official'}; {left:,} train"
    recipe.choose(
        {"data.test_fraction": test, "data.validation_fraction": validation},
        f"data.test_fraction: {test}, validation_fraction: {validation}",
        why,
    )
    return left


def _choose_batch_size(recipe: Recipe, model: str, classes: int, side: int, images: int) -> int:
    """Choose the batch size, and return it: the largest that memory and the images allow."""
    from prunelab.commands.new.memory import activation_bytes, free_bytes

    per_image = COPIES * activation_bytes(model, classes, (3, side, side))
    memory, place = free_bytes()
    seeds = 1 if devices() else core_count()  # seeds train side by side on the cores
    room = MEMORY_SHARE * memory / seeds

    chosen = BATCH_SIZES[-1]
    for size in BATCH_SIZES:
        if size * per_image <= room and size * MIN_STEPS <= images:
            chosen = size
            break
    recipe.choose(
        {
            "train.batch_size": chosen,
            "finetune.batch_size": chosen,
            "evaluate.batch_size": 2 * chosen,
        },
        f"train.batch_size: {chosen}",
        f"an image takes {per_image / 2**20:.1f} MiB in training, {memory / 2**30:.0f} GiB of "
        f"{place} are free, and an epoch should have {MIN_STEPS} steps",
    )
    return chosen


def _choose_training(recipe: Recipe, images: int, batch_size: int, pretrained: bool) -> None:
    if pretrained:
        epochs = _epochs(images, TRANSFER_EXAMPLES, TRANSFER_EPOCHS)
        optimizer, decay, smoothing = "adamw", 0.01, 0.1
        rate = 0.001 * math.sqrt(batch_size / 64)
        finetune_rate = rate
        why = "the network knows images already, so it learns for a short time and at a low rate"
    else:
        epochs = _epochs(images, SCRATCH_EXAMPLES, SCRATCH_EPOCHS)
        optimizer, decay, smoothing = "sgd", 0.0005, 0.0
        rate = 0.1 * batch_size / 128
        finetune_rate = rate / 2
        why = "it learns from nothing"
    finetune_epochs = max(2, math.ceil(FINETUNE_SHARE * epochs))

    shared: dict[str, Any] = {
        "optimizer": optimizer,
        "momentum": 0.9,
        "weight_decay": decay,
        "schedule": "one_cycle",
        "label_smoothing": smoothing,
    }
    values: dict[str, Any] = {f"train.{key}": value for key, value in shared.items()}
    values |= {f"finetune.{key}": value for key, value in shared.items()}
    values |= {
        "train.epochs": epochs,
        "train.learning_rate": float(f"{rate:.2g}"),
        "train.rewind_epoch": 1,
        "finetune.epochs": finetune_epochs,
        "finetune.learning_rate": float(f"{finetune_rate:.2g}"),
    }
    recipe.choose(
        values,
        f"train: {epochs} epochs of {optimizer} at {rate:.2g}, finetune: {finetune_epochs}",
        f"{why}; {images:,} images, {epochs * images:,} seen in all",
    )


def _choose_grid(recipe: Recipe) -> None:
    recipe.choose(
        {"method": "l1_channel", "ratio": FOCUS_RATIO, "budget": "macs", "grid": dict(GRID)},
        "grid: random_channel and l1_channel at 0.3, 0.5 and 0.7 of the multiply-accumulates",
        "channels that go make a network smaller on any hardware; the random ones are the control",
    )


def _epochs(images: int, seen: int, bounds: tuple[int, int]) -> int:
    low, high = bounds
    return min(high, max(low, math.ceil(seen / images)))
