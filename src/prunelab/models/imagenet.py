"""The weights that torchvision publishes: where they are, their download, and their tensors under today's names."""

import re
from collections import OrderedDict
from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from prunelab.core import download
from prunelab.core.download import Checksum
from prunelab.core.errors import InputError
from prunelab.core.registry import pick
from prunelab.models.catalogue import MODELS

IMAGENET = "imagenet"


def place(architecture: str) -> tuple[str, Path]:
    """The address of a network's ImageNet weights, and their place in torch hub's cache (below $TORCH_HOME).

    Raises:
        InputError: if there are none for this network.
    """
    name = pick(MODELS, architecture, "model").imagenet
    if not name:
        published = ", ".join(known for known, entry in MODELS.items() if entry.imagenet)
        raise InputError(
            f"weights: there are no {IMAGENET} weights for {architecture}; "
            f"valid: none, a file, or one of the models {published}"
        )
    from torchvision import models

    url = models.get_weight(name).url
    return url, Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(url).path).name)


def fetch(architecture: str) -> Path:
    """The file of a network's ImageNet weights, downloaded unless it is there, its hash checked in either case.

    Raises:
        InputError: if there are none, they cannot be downloaded, or the file is damaged.
    """
    url, path = place(architecture)
    try:
        download.fetch(
            url, Checksum(path.stem.rpartition("-")[2]), path
        )  # names end with the start of the hash
    except InputError as refused:
        raise InputError(f"weights: {problem}" for problem in refused.problems) from None
    return path


def modern(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under today's names: torchvision's older files call layers of DenseNet and of ViT otherwise."""
    dense = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
    first, second = re.compile(r"\.mlp\.linear_1\."), re.compile(r"\.mlp\.linear_2\.")
    return {
        second.sub(".mlp.3.", first.sub(".mlp.0.", dense.sub(r"\1\2", name))): value
        for name, value in state.items()
    }


def interpolated(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a vision transformer with position embeddings for as many patches as another one has.

    They are interpolated (Dosovitskiy et al. 2021, section 3.2).
    """
    from torchvision.models.vision_transformer import interpolate_embeddings

    image_size, patch_size = (getattr(model, key) for key in ("image_size", "patch_size"))
    return dict(interpolate_embeddings(image_size, patch_size, OrderedDict(state)))
