"""What the parameter `weights` names, and the file that it stands for. Nothing here needs torch."""

from pathlib import Path

from prunelab.core.files import user_path
from prunelab.encoders import pretrained
from prunelab.encoders.pretrained import NO_WEIGHTS
from prunelab.models.catalogue import find_architecture

IMAGENET = "imagenet"


def weights_file(weights: str, architecture: str) -> Path | None:
    """The file that the parameter `weights` stands for; None for no weights.

    ImageNet weights are downloaded on first use.

    Raises:
        InputError: if the encoder cannot be found, or if the ImageNet weights are not available.
    """
    if weights == IMAGENET:
        from prunelab.models import imagenet  # it imports torch

        return imagenet.fetch(architecture)

    if find_architecture(architecture).reads == "texts":
        return pretrained.weights_file(weights)
    if weights == NO_WEIGHTS:
        return None
    return user_path(weights)
