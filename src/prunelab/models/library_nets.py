"""Networks of torchvision and timm by their names there, for other classes and input channels.

They are as published: images must be as large as their layers need.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from prunelab.core.errors import InputError
from prunelab.models.networks import compute_shapes
from prunelab.models.torchvision_nets import with_channels

# What networks need besides the number of classes. Auxiliary classifiers are left out: the loss
# here is that of one output.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


def torchvision_network(classes: int, shape: tuple[int, int, int], *, name: str) -> nn.Module:
    """torchvision's network `name`.

    Raises:
        InputError: if it cannot read images of this shape.
    """
    from torchvision import models

    arguments = dict(ARGUMENTS.get(name, {}))
    if name == "maxvit_t":
        arguments["input_size"] = shape[1:]
    elif name.startswith("vit_"):
        arguments["image_size"] = shape[1]

    def make() -> nn.Module:
        model: nn.Module = models.get_model(name, weights=None, num_classes=classes, **arguments)
        return model

    return _adapted(make, f"torchvision/{name}", shape)


def timm_network(classes: int, shape: tuple[int, int, int], *, name: str) -> nn.Module:
    """timm's network `name`.

    Raises:
        InputError: if timm is not installed or has no such network, or if the network cannot read
            images of this shape.
    """
    try:
        import timm
    except ImportError:
        raise InputError(
            f"model: timm/{name} needs timm, which is not installed: pip install timm"
        ) from None
    if not timm.is_model(name):
        raise InputError(f"model: timm has no network {name!r}; see timm.list_models()")

    arguments: dict[str, Any] = {}
    if timm.models.get_pretrained_cfg_value(name, "fixed_input_size"):
        arguments["img_size"] = shape[1:]

    def make() -> nn.Module:
        model: nn.Module = timm.create_model(name, num_classes=classes, **arguments)
        return model

    return _adapted(make, f"timm/{name}", shape)


def _adapted(make: Callable[[], nn.Module], name: str, shape: tuple[int, int, int]) -> nn.Module:
    """A network with a first convolution for the channels of these images."""
    try:
        model = make()
        _set_channels(model, shape[0])
        compute_shapes(model.eval(), torch.zeros(1, *shape))
        model.train()
    except (ValueError, RuntimeError, AssertionError) as error:
        if isinstance(error, NotImplementedError):  # a network that the meta device cannot make
            raise
        reason = " ".join(str(error).split())
        raise InputError(
            f"model: {name} cannot read images of {shape[1]} x {shape[2]} pixels: {reason}; "
            "see data.resize"
        ) from None

    # Some heads are zero at first. Then no gradient reaches the other layers, which criteria at
    # initialisation need.
    *_, head = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    if not head.weight.is_meta and not head.weight.any():
        nn.init.trunc_normal_(head.weight, std=0.02)
    return model


def _set_channels(model: nn.Module, channels: int) -> None:
    for path, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, with_channels(layer, channels))
            return
