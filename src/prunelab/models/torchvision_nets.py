"""torchvision's networks, as published for large images and with smaller strides for small ones.

Images of at least `LARGE` pixels see the published layers, which ImageNet weights fit. Smaller
images lose resolution only eightfold, as in networks for CIFAR; the published layers would shrink
them 32-fold.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import nn

from prunelab.models.separable import SeparableBottleneck

LARGE = 128
MAX_SMALL_STRIDE = 8  # product of all strides that small images may see


def is_large(shape: tuple[int, ...]) -> bool:
    """Whether an image [C, H, W] is large enough for layers that were made for 224 pixels."""
    return min(shape[1:]) >= LARGE


def resnet(
    classes: int, shape: tuple[int, int, int], *, depths: Sequence[int], block: str
) -> nn.Module:
    """torchvision's residual network (He et al. 2016).

    Small images see a 3x3 stem of stride 1 and no pooling behind it.

    Args:
        classes: number of classes
        shape: (C, H, W) of the images
        depths: number of blocks of each of the four stages
        block: `BasicBlock`, `Bottleneck` or `SeparableBottleneck`
    """
    from torchvision.models import resnet as torchvision_resnet

    if block == "SeparableBottleneck":
        block_type = SeparableBottleneck
    else:
        block_type = getattr(torchvision_resnet, block)
    model: nn.Module = torchvision_resnet.ResNet(block_type, list(depths), num_classes=classes)

    model.conv1 = _stem(model.conv1, shape)
    if not is_large(shape):
        model.maxpool = nn.Identity()
    return model


def densenet121(classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """DenseNet-BC of 121 layers (Huang et al. 2017).

    Small images see a 3x3 stem and no pooling behind it. The last poolings are left out if images
    are too small for them.
    """
    from torchvision import models

    model: nn.Module = models.densenet121(num_classes=classes)
    features: Any = model.features
    features.conv0 = _stem(features.conv0, shape)
    if is_large(shape):
        return model

    features.pool0 = nn.Identity()
    side = min(shape[1:])
    for transition in (features.transition1, features.transition2, features.transition3):
        if side < 2:
            transition.pool = nn.Identity()
        side //= 2
    return model


def mobile(classes: int, shape: tuple[int, int, int], *, name: str) -> nn.Module:
    """torchvision's network `name`: MobileNet v2 or v3, or EfficientNet.

    For small images the first strides become 1. All kernels stay, so ImageNet weights fit small
    images too.
    """
    from torchvision import models

    model: nn.Module = getattr(models, name)(num_classes=classes)
    features: Any = model.features
    features[0][0] = with_channels(features[0][0], shape[0])
    if not is_large(shape):
        _limit_stride(features)
    return model


def _limit_stride(features: nn.Module) -> None:
    """Set the strides of the first layers to 1 until all strides together suit a small image."""
    strided = [
        layer
        for layer in features.modules()
        if isinstance(layer, nn.Conv2d) and layer.stride[0] > 1
    ]

    total = prod(layer.stride[0] for layer in strided)
    for layer in strided:
        if total <= MAX_SMALL_STRIDE:
            break
        total //= layer.stride[0]
        layer.stride = (1, 1)


def _stem(conv: Any, shape: tuple[int, int, int]) -> nn.Conv2d:
    """The first convolution for images of this shape: 3x3 of stride 1 for small ones."""
    channels = shape[0]
    if is_large(shape):
        return with_channels(conv, channels)

    has_bias = conv.bias is not None
    return _initialised(nn.Conv2d(channels, conv.out_channels, 3, padding=1, bias=has_bias))


def with_channels(conv: nn.Conv2d, channels: int) -> nn.Conv2d:
    """The convolution itself, or a fresh one like it if images have another number of channels."""
    if conv.in_channels == channels:
        return conv

    geometry: dict[str, Any] = {
        "kernel_size": conv.kernel_size,
        "stride": conv.stride,
        "padding": conv.padding,
    }
    has_bias = conv.bias is not None
    return _initialised(nn.Conv2d(channels, conv.out_channels, bias=has_bias, **geometry))


def _initialised(conv: nn.Conv2d) -> nn.Conv2d:
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv
