"""A network of this project's own. Nothing of it runs unless `model` names it."""

from collections import OrderedDict

from torch import nn

from prunelab.models.catalogue import MODELS, Architecture


def plain_cnn(classes: int, shape: tuple[int, ...], width: int = 16) -> nn.Module:
    """Three convolutions without shortcuts, for images [C, H, W] of any size."""
    layers: list[nn.Module] = []
    channels = shape[0]
    for factor in (1, 2, 2):
        layers += [
            nn.Conv2d(channels, factor * width, 3, padding=1, bias=False),
            nn.BatchNorm2d(factor * width),
            nn.ReLU(),
        ]
        channels = factor * width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]

    parts = OrderedDict(features=nn.Sequential(*layers), head=nn.Linear(channels, classes))
    return nn.Sequential(parts)


MODELS.register("plain_cnn", Architecture("plugins.example_network:plain_cnn", head="head"))
