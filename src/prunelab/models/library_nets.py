"""Networks of torchvision and timm by their names there, for other classes and input channels.

They are as published: images must be as large as their layers need. Options change what the
libraries' own functions can change, and the stem.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from prunelab.core.errors import InputError
from prunelab.core.text import did_you_mean, name_list
from prunelab.models.networks import HEAD_ATTRIBUTE, compute_shapes
from prunelab.models.torchvision_nets import with_channels

# What networks need besides the number of classes. Auxiliary classifiers are left out: the loss
# here is that of one output.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}
SMALL, PUBLISHED = "small", "published"  # the stems

# What timm calls the options of its networks.
TIMM_OPTIONS = {
    "patch_size": "patch_size",
    "window_size": "window_size",
    "dropout": "drop_rate",
    "drop_path": "drop_path_rate",
}


def torchvision_network(
    classes: int,
    shape: tuple[int, int, int],
    *,
    name: str,
    head: str = "",
    stem: str = PUBLISHED,
) -> nn.Module:
    """torchvision's network `name`.

    Args:
        classes: number of classes
        shape: (C, H, W) of the images
        name: the network's name in torchvision
        head: name of the classifier's layer; empty: the last convolution or linear layer
        stem: `small` for small images: the first strided convolution has stride 1, and no pooling
            follows it

    Raises:
        InputError: if it cannot read images of this shape, or if it has no such head or stem.
    """
    from torchvision import models

    arguments = dict(ARGUMENTS.get(name, {}))
    if name == "maxvit_t":
        arguments["input_size"] = shape[1:]
    elif name.startswith("vit_"):
        arguments["image_size"] = shape[1]

    def make() -> nn.Module:
        model: nn.Module = models.get_model(name, weights=None, num_classes=classes, **arguments)
        _set_channels(model, shape[0])
        return model

    model = _adapted(make, f"torchvision/{name}", shape, stem)
    _set_head(model, f"torchvision/{name}", head, classes)
    return model


def timm_network(  # noqa: PLR0913 (each option has its name)
    classes: int,
    shape: tuple[int, int, int],
    *,
    name: str,
    head: str = "",
    stem: str = PUBLISHED,
    patch_size: int | None = None,
    window_size: int | None = None,
    dropout: float | None = None,
    drop_path: float | None = None,
) -> nn.Module:
    """timm's network `name`.

    Args:
        classes: number of classes
        shape: (C, H, W) of the images
        name: the network's name in timm
        head: name of the classifier's layer; empty: the one that timm names
        stem: as of `torchvision_network`
        patch_size: pixels a side of the patches of a transformer
        window_size: tokens a side of the windows of a transformer with windows
        dropout: share of the features that training leaves out before the head
        drop_path: share of the blocks that training leaves out

    Raises:
        InputError: if timm is not installed or has no such network, or if the network cannot read
            images of this shape or does not take one of the options.
    """
    timm = _timm_with(name)
    chosen = {
        "patch_size": patch_size,
        "window_size": window_size,
        "dropout": dropout,
        "drop_path": drop_path,
    }
    options = {key: value for key, value in chosen.items() if value is not None}
    arguments: dict[str, Any] = {TIMM_OPTIONS[key]: value for key, value in options.items()}
    if options:
        _check_timm_options(name, options)
    if timm.models.get_pretrained_cfg_value(name, "fixed_input_size"):
        arguments["img_size"] = shape[1:]

    def make() -> nn.Module:
        model: nn.Module = timm.create_model(
            name, num_classes=classes, in_chans=shape[0], **arguments
        )
        return model

    model = _adapted(make, f"timm/{name}", shape, stem)
    known = timm.models.get_pretrained_cfg_value(name, "classifier")
    if not head and isinstance(known, str) and known in dict(model.named_modules()):
        setattr(model, HEAD_ATTRIBUTE, known)
    _set_head(model, f"timm/{name}", head, classes)
    return model


def _timm_with(name: str) -> Any:
    """The package timm, if it is installed and has this network.

    Raises:
        InputError: if it is not so.
    """
    try:
        import timm
    except ImportError:
        raise InputError(
            f"model: timm/{name} needs timm, which is not installed: pip install timm"
        ) from None
    if not timm.is_model(name):
        raise InputError(f"model: timm has no network {name!r}; see timm.list_models()")
    return timm


def _check_timm_options(name: str, options: Mapping[str, Any]) -> None:
    """Refuse options that the class of a network does not take.

    Raises:
        InputError: with the options that it takes.
    """
    timm = _timm_with(name)
    with torch.device("meta"):
        network = type(timm.create_model(name))
    taken = inspect.signature(network.__init__).parameters
    valid = [key for key, argument in TIMM_OPTIONS.items() if argument in taken]
    unknown = [key for key in options if key not in valid]
    if unknown:
        raise InputError(
            f"model_options.{key}: timm/{name} does not take it; "
            f"valid: {', '.join(['head', 'stem', *valid])}"
            for key in unknown
        )


def _adapted(
    make: Callable[[], nn.Module], name: str, shape: tuple[int, int, int], stem: str
) -> nn.Module:
    """A network with this stem, if it can read these images."""
    if stem not in (SMALL, PUBLISHED):
        raise InputError(f"model_options.stem: {stem!r} is no stem; valid: {PUBLISHED}, {SMALL}")
    try:
        model = make()
        if stem == SMALL:
            _shrink_stem(model, name)
        compute_shapes(model.eval(), torch.zeros(1, *shape))
        model.train()
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
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
    """Let the first convolution read so many channels; its outputs stay about as large."""
    for path, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            stem = with_channels(layer, channels)
            if stem is not layer and not layer.weight.is_meta:
                _scale_like(stem, layer)
            _replace(model, path, stem)
            return


def _scale_like(stem: nn.Conv2d, published: nn.Conv2d) -> None:
    """Scale fresh weights, so that the sum over the inputs is as large as the library made it.

    Libraries choose the deviation of weights by the number of inputs or of outputs, or fix it.
    """
    with torch.no_grad():
        wanted = published.weight.std() * (published.in_channels / stem.in_channels) ** 0.5
        stem.weight *= wanted / stem.weight.std()


def _shrink_stem(model: nn.Module, name: str) -> None:
    """Let the first strided convolution keep the resolution, and leave out the pooling behind it.

    Kernels stay, so that weights for large images fit.

    Raises:
        InputError: if there is no such convolution, or if it cuts images into patches.
    """
    layers = list(model.named_modules())
    first = next((place for place, (_, layer) in enumerate(layers) if _is_strided(layer)), None)
    if first is None:
        raise InputError(f"model_options.stem: {name} has no strided convolution to shrink")

    path, stem = layers[first]
    assert isinstance(stem, nn.Conv2d)
    if stem.kernel_size[0] <= stem.stride[0]:
        raise InputError(
            f"model_options.stem: {name} cuts images into patches by {path}, which has no "
            "smaller stride"
        )
    stem.stride = (1, 1)

    for path, layer in layers[first + 1 :]:
        if _is_strided(layer):
            return
        if isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
            _replace(model, path, nn.Identity())
            return


def _is_strided(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and max(layer.stride) > 1


def _replace(model: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, layer)


def _set_head(model: nn.Module, name: str, head: str, classes: int) -> None:
    """Keep the name of the head that was chosen.

    Raises:
        InputError: if no layer of that name has an output for each class.
    """
    if not head:
        return

    valid = [
        path
        for path, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and len(layer.weight) == classes
    ]
    if head not in valid:
        raise InputError(
            f"model_options.head: {name} has no convolution or linear layer {head!r} of {classes} "
            f"outputs{did_you_mean(head, valid)}; valid: {name_list(valid[::-1])}"
        )
    setattr(model, HEAD_ATTRIBUTE, head)
