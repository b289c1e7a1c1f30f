"""MODELS: the networks by name, each with its head and the layers whose width is not free."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from prunelab.errors import Refused
from prunelab.models import torchvision_nets
from prunelab.models.bert import bert
from prunelab.models.cifar_resnet import CifarResNet, residual_stream
from prunelab.models.encoders import encoder_options
from prunelab.registry import pick
from prunelab.runtime import seed_for

Shape = tuple[int, ...]  # (channels, height, width) of an image, or (tokens,) of a text


@dataclass(frozen=True)
class Architecture:
    """`build(classes, shape, **options)` makes the network; `head` names its last layer.

    `fixed(name)` tells whether a layer's output channels must stay, beyond the head's, which always do;
    `options(weights)` what the builder needs to know of the weights that are to be imported.
    """

    build: Callable[..., nn.Module]
    head: str
    fixed: Callable[[str], bool] = lambda name: False
    mend: Callable[[nn.Module], None] = lambda model: None
    divisor: Callable[[str], int] = lambda name: 1
    reads: Literal["images", "texts"] = "images"
    options: Callable[[str], dict[str, int]] = lambda weights: {}


def build(name: str, classes: int, shape: Shape, seed: int = 0, **options: int) -> nn.Module:
    """A fresh network, its initial weights determined by the seed.

    Raises:
        Refused: if there is no network of that name, or none for such input or options.
    """
    architecture = pick(MODELS, name, "model")
    if reads(shape) != architecture.reads:
        fitting = ", ".join(other for other, entry in MODELS.items() if entry.reads == reads(shape))
        raise Refused(f"model: {name} reads {architecture.reads}, the data set holds {reads(shape)}; valid: {fitting}")
    try:
        inspect.signature(architecture.build).bind(classes, shape, **options)
    except TypeError as error:
        raise Refused(f"model: {name} cannot be built with the options {options}: {error}") from None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for("init", seed))
        return architecture.build(classes, shape, **options)


def reads(shape: Shape) -> Literal["images", "texts"]:
    """What inputs of this shape are."""
    return "texts" if len(shape) == 1 else "images"


def example(shape: Shape) -> torch.Tensor:
    """One input by which a network can be traced: a black image, float [1, C, H, W], or a text, int64 [1, L].

    No token of the text is padding (0 in BERT's vocabulary), so that nothing is left out of what it costs.
    """
    return torch.ones(1, *shape, dtype=torch.int64) if reads(shape) == "texts" else torch.zeros(1, *shape)


def fixed_layers(name: str, model: nn.Module) -> list[nn.Module]:
    """The layers of a network whose output channels pruning must leave alone."""
    architecture = pick(MODELS, name, "model")
    return [layer for path, layer in model.named_modules() if path == architecture.head or architecture.fixed(path)]


def prunable_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights that pruning may zero: those of every convolution and linear layer, the head's too; no biases."""
    return {
        f"{name}.weight": module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }


def _cifar_resnet(blocks: int) -> Architecture:
    return Architecture(
        lambda classes, shape: CifarResNet(blocks, classes, channels=shape[0]), head="linear", fixed=residual_stream
    )


MODELS: dict[str, Architecture] = {
    "resnet8": _cifar_resnet(blocks=1),
    "resnet20": _cifar_resnet(blocks=3),
    "resnet56": _cifar_resnet(blocks=9),
    "resnet18": Architecture(torchvision_nets.resnet18, head="fc"),
    "vgg11_bn": Architecture(torchvision_nets.vgg11_bn, head="classifier"),
    "bert": Architecture(bert, head="classifier", reads="texts", options=encoder_options),
}
