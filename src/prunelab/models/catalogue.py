"""The networks by name, each with its head and the layers whose width must stay. No torch.

MODELS has those that are made here for images of any size. `find_architecture` knows those of
torchvision (TORCHVISION) and timm besides, as they were published.

The modules that make the networks are imported when a network is made; see `networks`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from prunelab.core.errors import InputError
from prunelab.core.registry import Table, pick, require
from prunelab.encoders.pretrained import encoder_options

Shape = tuple[int, ...]  # (channels, height, width) of an image, or (tokens,) of a text
InputKind = Literal["images", "texts"]
Option = int | float | str


@dataclass(frozen=True)
class Architecture:
    """One network of the table.

    Args:
        build: the function that makes the network, as `module:function`. It is called as
            `function(classes, shape, **arguments, **options)`
        head: name of its last layer; empty: the last convolution or linear layer that there is
        arguments: what this network's function is called with besides, such as the depth
        fixed: layers that must keep their output channels, by name with wildcards; the head always
            does
        reads: the kind of its inputs
        options: what the function must know about the weights that are imported
        imagenet: torchvision's name of weights trained on ImageNet, or of a network whose first
            published weights these are; empty if there are none
        surplus: parts that the published weights have and the network here lacks
    """

    build: str
    head: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    fixed: tuple[str, ...] = ()
    reads: InputKind = "images"
    options: Callable[[str], dict[str, int]] = lambda weights: {}
    imagenet: str = ""
    surplus: tuple[str, ...] = ()


def input_kind(shape: Shape) -> InputKind:
    """What inputs of this shape are."""
    return "texts" if len(shape) == 1 else "images"


# The layers whose output is added to the residual stream, whose width shortcuts without parameters
# fix.
RESIDUAL_STREAM = ("conv1", "*conv2")

# The layers that write a transformer's embedding. Layer norm averages over it, so removing one
# channel would change all others, and would not be the same as zeroing it. Heads and hidden layers
# are free.
EMBEDDING_STREAM = ("conv_proj", "*.out_proj", "*.mlp.3")


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

# torchvision's classification networks, as torchvision.models.list_models names them.
TORCHVISION = (
    "alexnet",
    "convnext_base",
    "convnext_large",
    "convnext_small",
    "convnext_tiny",
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_b5",
    "efficientnet_b6",
    "efficientnet_b7",
    "efficientnet_v2_l",
    "efficientnet_v2_m",
    "efficientnet_v2_s",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mnasnet0_75",
    "mnasnet1_0",
    "mnasnet1_3",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "regnet_x_16gf",
    "regnet_x_1_6gf",
    "regnet_x_32gf",
    "regnet_x_3_2gf",
    "regnet_x_400mf",
    "regnet_x_800mf",
    "regnet_x_8gf",
    "regnet_y_128gf",
    "regnet_y_16gf",
    "regnet_y_1_6gf",
    "regnet_y_32gf",
    "regnet_y_3_2gf",
    "regnet_y_400mf",
    "regnet_y_800mf",
    "regnet_y_8gf",
    "resnet101",
    "resnet152",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0",
    "squeezenet1_0",
    "squeezenet1_1",
    "swin_b",
    "swin_s",
    "swin_t",
    "swin_v2_b",
    "swin_v2_s",
    "swin_v2_t",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
    "vit_b_16",
    "vit_b_32",
    "vit_h_14",
    "vit_l_16",
    "vit_l_32",
    "wide_resnet101_2",
    "wide_resnet50_2",
)
TORCHVISION_PREFIX, TIMM_PREFIX = "torchvision/", "timm/"


def _torchvision(name: str) -> Architecture:
    return Architecture(
        "prunelab.models.library_nets:torchvision_network",
        head="",
        arguments={"name": name},
        imagenet=name,
        surplus=("aux1", "aux2", "AuxLogits"),
    )


LIBRARY = {f"{TORCHVISION_PREFIX}{name}": _torchvision(name) for name in TORCHVISION}


def find_architecture(name: str) -> Architecture:
    """The network of that name: one of MODELS, or `torchvision/NAME`, or `timm/NAME`.

    Whether timm is installed and has such a network is only known when it is built.

    Raises:
        InputError: if there is no such network.
    """
    if name.startswith(TIMM_PREFIX):
        network = name.removeprefix(TIMM_PREFIX)
        return Architecture(
            "prunelab.models.library_nets:timm_network", head="", arguments={"name": network}
        )
    if name.startswith(TORCHVISION_PREFIX):
        return pick(LIBRARY, name, "model")
    return pick(MODELS, name, "model")


def network_options(name: str, weights: str, chosen: Mapping[str, Option]) -> dict[str, Option]:
    """What a network is built with: what its weights ask for, and the parameter `model_options`.

    Raises:
        InputError: if there is no such network, or if an option is that of the weights.
    """
    of_weights = find_architecture(name).options(weights)
    if "seed" in chosen:
        raise InputError("model_options.seed: seeds has the seeds of the initial weights")
    clashes = [key for key in chosen if key in of_weights]
    if clashes:
        raise InputError(
            f"model_options.{key}: the weights say it of {name}; leave it out" for key in clashes
        )
    return of_weights | dict(chosen)


def require_model(name: str) -> None:
    """Raise InputError as `find_architecture` does; no plugin is imported."""
    if name.startswith(TORCHVISION_PREFIX):
        require(LIBRARY, name, "model")
    elif not name.startswith(TIMM_PREFIX):
        require(MODELS, name, "model")
