"""The weights that torchvision publishes: addresses, download and names of tensors."""

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from prunelab.core import download
from prunelab.core.download import Checksum
from prunelab.core.errors import InputError
from prunelab.models.catalogue import MODELS, find_architecture
from prunelab.models.weights_packages import IMAGENET, PACKAGE_OF

# Names in torchvision's older files, and what they are called now.
RENAMED = (
    (re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)"), r"\1\2"),
    (re.compile(r"\.mlp\.linear_1\."), ".mlp.0."),
    (re.compile(r"\.mlp\.linear_2\."), ".mlp.3."),
)


def locate(architecture: str) -> tuple[str, Path]:
    """The address of a network's ImageNet weights, and their place in torch hub's cache.

    The cache is below $TORCH_HOME.

    Raises:
        InputError: if there are none for this network.
    """
    name = find_architecture(architecture).imagenet
    if not name:
        published = ", ".join(
            [*(model for model, entry in MODELS.own.items() if entry.imagenet), *PACKAGE_OF]
        )
        raise InputError(
            f"weights: there are no {IMAGENET} weights for {architecture}; "
            f"valid: none, a file, or one of the models {published}"
        )

    url = _published(name).url
    return url, Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(url).path).name)


def _published(name: str) -> Any:
    """Weights by their own name, or the first that are published of a network."""
    from torchvision import models

    if "." in name:
        return models.get_weight(name)
    return next(iter(models.get_model_weights(name)))


def fetch(architecture: str) -> Path:
    """The file of a network's ImageNet weights, downloaded if absent. Its hash is always checked.

    Raises:
        InputError: if there are none, if they cannot be downloaded, or if the file is damaged.
    """
    url, path = locate(architecture)
    hash_start = path.stem.rpartition("-")[2]  # as in resnet18-f37072fd.pth

    try:
        download.fetch(url, Checksum(hash_start), path)
    except InputError as error:
        raise InputError(f"weights: {problem}" for problem in error.problems) from None
    return path


def with_current_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under torchvision's current names; old files of DenseNet and ViT have others."""
    renamed = {}
    for name, tensor in state.items():
        for pattern, replacement in RENAMED:
            name = pattern.sub(replacement, name)
        renamed[name] = tensor
    return renamed


def interpolate_positions(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A vision transformer's tensors, with position embeddings for as many patches as `model` has.

    They are interpolated (Dosovitskiy et al. 2021, section 3.2).
    """
    from torchvision.models.vision_transformer import interpolate_embeddings

    return dict(interpolate_embeddings(model.image_size, model.patch_size, OrderedDict(state)))
