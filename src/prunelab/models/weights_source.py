"""What the parameter `weights` names, and the file that it stands for. Nothing here needs torch."""

from pathlib import Path

from prunelab.config.params import WeightsOptions
from prunelab.core.errors import InputError
from prunelab.core.files import user_path
from prunelab.encoders import pretrained
from prunelab.encoders.pretrained import NO_WEIGHTS, PACKAGED
from prunelab.models.catalogue import find_architecture
from prunelab.models.weights_packages import IMAGENET, PREFIX, find_package, package_file

# What params.yaml ships: names are the network's.
AS_IT_IS = WeightsOptions(rename={}, head="auto", ema=False, order=False)


def is_published(weights: str) -> bool:
    """Whether weights are known by name and hash, and no file of the user's own."""
    return weights in (NO_WEIGHTS, IMAGENET) or weights.startswith(PREFIX)


def is_path(weights: str) -> bool:
    """Whether weights may be a path of the user's own; a name on the hub may be one too."""
    return not is_published(weights) and weights not in PACKAGED


def weights_file(weights: str, architecture: str) -> Path | None:
    """The file that the parameter `weights` stands for; None for no weights.

    ImageNet weights are found in a package, or downloaded on first use.

    Raises:
        InputError: if the encoder or the package cannot be found, or if the ImageNet weights are
            not available.
    """
    package = find_package(weights, architecture)
    if package is not None:
        return package_file(package)
    if weights == IMAGENET:
        from prunelab.models import imagenet  # it imports torch

        return imagenet.fetch(architecture)

    if find_architecture(architecture).reads == "texts":
        return pretrained.weights_file(weights)
    if weights == NO_WEIGHTS:
        return None
    return user_path(weights)


def check_options(weights: str, architecture: str, options: WeightsOptions) -> None:
    """Check that no option is set that these weights do not read.

    Raises:
        InputError: with one line per option.
    """
    unread: tuple[str, ...]
    if weights == NO_WEIGHTS:
        unread = tuple(WeightsOptions.model_fields)
        reason = f"is for weights that are read, and weights is {NO_WEIGHTS}"
    elif is_published(weights):
        unread = ("rename", "ema", "order")
        reason = f"is for a file of weights, and weights is {weights}"
    elif find_architecture(architecture).reads == "texts":
        unread = ("head", "order")
        reason = f"is for networks that read images, and {architecture} reads texts"
    else:
        return

    problems = []
    for key in unread:
        if getattr(options, key) != getattr(AS_IT_IS, key):
            problems.append(f"weights_options.{key}: it {reason}")
    if problems:
        raise InputError(problems)
