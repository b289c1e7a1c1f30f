"""MODELS: the networks by name, each with its head and the layers whose width must stay. No torch.

The modules that make the networks are imported when a network is made; see `networks`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from prunelab.core.registry import Table
from prunelab.encoders.pretrained import encoder_options

Shape = tuple[int, ...]  # (channels, height, width) of an image, or (tokens,) of a text
InputKind = Literal["images", "texts"]


@dataclass(frozen=True)
class Architecture:
    """One network of the table.

    Args:
        build: the function that makes the network, as `module:function`. It is called as
            `function(classes, shape, **arguments, **options)`
        head: name of its last layer
        arguments: what this network's function is called with besides, such as the depth
        fixed: layers that must keep their output channels, by name with wildcards; the head always
            does
        reads: the kind of its inputs
        options: what the function must know about the weights that are imported
        imagenet: torchvision's name of weights trained on ImageNet; empty if there are none
    """

    build: str
    head: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    fixed: tuple[str, ...] = ()
    reads: InputKind = "images"
    options: Callable[[str], dict[str, int]] = lambda weights: {}
    imagenet: str = ""


def input_kind(shape: Shape) -> InputKind:
    """What inputs of this shape are."""
    return "texts" if len(shape) == 1 else "images"


# The layers whose output is added to the residual stream, whose width shortcuts without parameters
# fix.
RESIDUAL_STREAM = ("conv1", "*conv2")

# The layers that write a transformer's embedding. Layer norm averages over it, and attention cuts
# it into heads. So removing one channel would change all others, and would not be the same as
# zeroing it. Hidden layers are free.
EMBEDDING_STREAM = ("conv_proj", "*.self_attention", "*.out_proj", "*.mlp.3")


def _cifar(blocks: int) -> Architecture:
    return Architecture(
        "prunelab.models.cifar_resnet:cifar_resnet",
        head="linear",
        arguments={"blocks": blocks},
        fixed=RESIDUAL_STREAM,
    )


def _cifar_b(blocks: int) -> Architecture:
    return Architecture(
        "prunelab.models.cifar_resnet:cifar_resnet",
        head="linear",
        arguments={"blocks": blocks, "projection": True},
    )


def _resnet(block: str, *depths: int, imagenet: str = "") -> Architecture:
    return Architecture(
        "prunelab.models.torchvision_nets:resnet",
        head="fc",
        arguments={"depths": depths, "block": block},
        imagenet=imagenet,
    )


def _vgg(depth: int, norms: bool = False) -> Architecture:
    suffix = "_BN" if norms else ""
    return Architecture(
        "prunelab.models.feature_nets:vgg",
        head="classifier",
        arguments={"depth": depth, "norms": norms},
        imagenet=f"VGG{depth}{suffix}_Weights.IMAGENET1K_V1",
    )


def _vgg_classic(depth: int) -> Architecture:
    return Architecture(
        "prunelab.models.feature_nets:vgg_classic",
        head="classifier.6",
        arguments={"depth": depth},
        imagenet=f"VGG{depth}_Weights.IMAGENET1K_V1",
    )


def _mobile(name: str, head: str, imagenet: str) -> Architecture:
    return Architecture(
        "prunelab.models.torchvision_nets:mobile",
        head=head,
        arguments={"name": name},
        imagenet=imagenet,
    )


def _vit(heads: int, width: int, hidden: int, imagenet: str = "") -> Architecture:
    return Architecture(
        "prunelab.models.vit:vit",
        head="heads.head",
        arguments={"layers": 12, "heads": heads, "width": width, "hidden": hidden},
        fixed=EMBEDDING_STREAM,
        imagenet=imagenet,
    )


_ENTRIES: dict[str, Architecture] = {
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
    "vgg_compact": Architecture("prunelab.models.feature_nets:CompactVgg", head="classifier"),
    "vgg16_classic": _vgg_classic(16),
    "vgg19_classic": _vgg_classic(19),
    "alexnet": Architecture(
        "prunelab.models.feature_nets:alexnet",
        head="classifier.6",
        imagenet="AlexNet_Weights.IMAGENET1K_V1",
    ),
    "mobilenet_v2": _mobile("mobilenet_v2", "classifier.1", "MobileNet_V2_Weights.IMAGENET1K_V1"),
    "mobilenet_v3_small": _mobile(
        "mobilenet_v3_small", "classifier.3", "MobileNet_V3_Small_Weights.IMAGENET1K_V1"
    ),
    "efficientnet_b0": _mobile(
        "efficientnet_b0", "classifier.1", "EfficientNet_B0_Weights.IMAGENET1K_V1"
    ),
    "densenet121": Architecture(
        "prunelab.models.torchvision_nets:densenet121",
        head="classifier",
        imagenet="DenseNet121_Weights.IMAGENET1K_V1",
    ),
    "vit_tiny": _vit(heads=3, width=192, hidden=768),  # Touvron et al. 2021, table 1
    "vit_b_16": _vit(heads=12, width=768, hidden=3072, imagenet="ViT_B_16_Weights.IMAGENET1K_V1"),
    "bert": Architecture(
        "prunelab.models.bert:bert", head="classifier", reads="texts", options=encoder_options
    ),
}
MODELS = Table("model", _ENTRIES, instance_of=Architecture)
