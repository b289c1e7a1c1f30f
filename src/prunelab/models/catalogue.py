"""MODELS: the networks by name, each with its head and the layers whose width must stay."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from prunelab.core.errors import InputError
from prunelab.core.registry import pick
from prunelab.encoders.pretrained import encoder_options
from prunelab.models.bert import bert
from prunelab.models.cifar_resnet import CifarResNet, residual_stream
from prunelab.models.feature_nets import CompactVgg, alexnet, vgg, vgg_classic
from prunelab.models.torchvision_nets import densenet121, mobile, resnet
from prunelab.models.vit import embedding_stream, vit_b_16, vit_tiny
from prunelab.runtime.device import seed_for

Shape = tuple[int, ...]  # (channels, height, width) of an image, or (tokens,) of a text
InputKind = Literal["images", "texts"]


@dataclass(frozen=True)
class Architecture:
    """One network of the table.

    Args:
        build: makes the network, as `build(classes, shape, **options)`
        head: name of its last layer
        fixed: whether the layer of this name must keep its output channels; the head always does
        reads: the kind of its inputs
        options: what the builder must know about the weights that are imported
        imagenet: torchvision's name of weights trained on ImageNet; empty if there are none
    """

    build: Callable[..., nn.Module]
    head: str
    fixed: Callable[[str], bool] = lambda name: False
    reads: InputKind = "images"
    options: Callable[[str], dict[str, int]] = lambda weights: {}
    imagenet: str = ""


def build(name: str, classes: int, shape: Shape, seed: int = 0, **options: int) -> nn.Module:
    """A fresh network, whose initial weights depend on the seed alone.

    Raises:
        InputError: if there is no network of that name, or if it cannot have this input or option.
    """
    architecture = _check_request(name, classes, shape, options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for("init", seed))
        return architecture.build(classes, shape, **options)


def build_on_meta(name: str, classes: int, shape: Shape, **options: int) -> nn.Module:
    """A network without values, on the meta device: its structure, or a place to load weights into.

    Raises:
        InputError: as `build` does.
    """
    architecture = _check_request(name, classes, shape, options)
    with torch.device("meta"), _SkipNormalDraws():
        return architecture.build(classes, shape, **options)


class _SkipNormalDraws(TorchFunctionMode):
    """Skips normal draws. On the meta device torch imports its compiler for them, for seconds."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.Tensor.normal_:
            return args[0]

        return func(*args, **(kwargs or {}))


def _check_request(name: str, classes: int, shape: Shape, options: dict[str, int]) -> Architecture:
    """The architecture of that name, if it can be built with this input and these options."""
    architecture = pick(MODELS, name, "model")

    kind = input_kind(shape)
    if architecture.reads != kind:
        valid = ", ".join(model for model, entry in MODELS.items() if entry.reads == kind)
        raise InputError(
            f"model: {name} reads {architecture.reads}, the data set holds {kind}; valid: {valid}"
        )

    try:
        inspect.signature(architecture.build).bind(classes, shape, **options)
    except TypeError as error:
        raise InputError(
            f"model: {name} cannot be built with the options {options}: {error}"
        ) from None
    return architecture


def input_kind(shape: Shape) -> InputKind:
    """What inputs of this shape are."""
    return "texts" if len(shape) == 1 else "images"


def example_input(shape: Shape) -> torch.Tensor:
    """One input to trace a network with.

    No token of a text is padding (0 in BERT's vocabulary), so its cost is that of a full text.

    Returns:
        A black image, float [1, C, H, W], or a text, int64 [1, L].
    """
    if input_kind(shape) == "texts":
        return torch.ones(1, *shape, dtype=torch.int64)
    return torch.zeros(1, *shape)


def fixed_layers(name: str, model: nn.Module) -> list[nn.Module]:
    """The layers of a network whose output channels pruning must keep."""
    architecture = pick(MODELS, name, "model")
    return [
        layer
        for path, layer in model.named_modules()
        if path == architecture.head or architecture.fixed(path)
    ]


def prunable_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights that pruning may set to zero, by parameter name.

    These are the weights of every convolution and linear layer, including the head, but no biases.
    Of attention they include all projections: queries, keys and values share one matrix, which is a
    parameter without a layer of its own.
    """
    weights: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weights[f"{name}.weight"] = module.weight
        elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            weights[f"{name}.in_proj_weight"] = module.in_proj_weight
    return weights


def _cifar(blocks: int) -> Architecture:
    return Architecture(
        lambda classes, shape: CifarResNet(blocks, classes, channels=shape[0]),
        head="linear",
        fixed=residual_stream,
    )


def _cifar_b(blocks: int) -> Architecture:
    return Architecture(
        lambda classes, shape: CifarResNet(blocks, classes, channels=shape[0], projection=True),
        head="linear",
    )


def _resnet(block: str, *depths: int, imagenet: str = "") -> Architecture:
    return Architecture(partial(resnet, depths, block), head="fc", imagenet=imagenet)


def _vgg(depth: int, norms: bool = False) -> Architecture:
    suffix = "_BN" if norms else ""
    return Architecture(
        partial(vgg, depth, norms),
        head="classifier",
        imagenet=f"VGG{depth}{suffix}_Weights.IMAGENET1K_V1",
    )


def _vgg_classic(depth: int) -> Architecture:
    return Architecture(
        partial(vgg_classic, depth),
        head="classifier.6",
        imagenet=f"VGG{depth}_Weights.IMAGENET1K_V1",
    )


def _mobile(name: str, head: str, imagenet: str) -> Architecture:
    return Architecture(partial(mobile, name), head=head, imagenet=imagenet)


MODELS: dict[str, Architecture] = {
    "resnet8": _cifar(blocks=1),
    "resnet20": _cifar(blocks=3),
    "resnet32": _cifar(blocks=5),
    "resnet44": _cifar(blocks=7),
    "resnet56": _cifar(blocks=9),
    "resnet110": _cifar(blocks=18),
    "resnet20_b": _cifar_b(blocks=3),
    "resnet56_b": _cifar_b(blocks=9),
    "resnet18": _resnet("BasicBlock", 2, 2, 2, 2, imagenet="ResNet18_Weights.IMAGENET1K_V1"),
    "resnet34": _resnet("BasicBlock", 3, 4, 6, 3, imagenet="ResNet34_Weights.IMAGENET1K_V1"),
    "resnet26": _resnet("Bottleneck", 2, 2, 2, 2),
    "resnet50": _resnet("Bottleneck", 3, 4, 6, 3, imagenet="ResNet50_Weights.IMAGENET1K_V1"),
    "resnet26_dse": _resnet("SeparableBottleneck", 2, 2, 2, 2),
    "resnet50_dse": _resnet("SeparableBottleneck", 3, 4, 6, 3),
    "vgg11": _vgg(11),
    "vgg16": _vgg(16),
    "vgg19": _vgg(19),
    "vgg11_bn": _vgg(11, norms=True),
    "vgg16_bn": _vgg(16, norms=True),
    "vgg19_bn": _vgg(19, norms=True),
    "vgg_compact": Architecture(CompactVgg, head="classifier"),
    "vgg16_classic": _vgg_classic(16),
    "vgg19_classic": _vgg_classic(19),
    "alexnet": Architecture(alexnet, head="classifier.6", imagenet="AlexNet_Weights.IMAGENET1K_V1"),
    "mobilenet_v2": _mobile("mobilenet_v2", "classifier.1", "MobileNet_V2_Weights.IMAGENET1K_V1"),
    "mobilenet_v3_small": _mobile(
        "mobilenet_v3_small", "classifier.3", "MobileNet_V3_Small_Weights.IMAGENET1K_V1"
    ),
    "efficientnet_b0": _mobile(
        "efficientnet_b0", "classifier.1", "EfficientNet_B0_Weights.IMAGENET1K_V1"
    ),
    "densenet121": Architecture(
        densenet121, head="classifier", imagenet="DenseNet121_Weights.IMAGENET1K_V1"
    ),
    "vit_tiny": Architecture(vit_tiny, head="heads.head", fixed=embedding_stream),
    "vit_b_16": Architecture(
        vit_b_16,
        head="heads.head",
        fixed=embedding_stream,
        imagenet="ViT_B_16_Weights.IMAGENET1K_V1",
    ),
    "bert": Architecture(bert, head="classifier", reads="texts", options=encoder_options),
}
