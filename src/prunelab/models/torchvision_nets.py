"""torchvision's networks, as published for large images and with stems and strides that suit small ones.

Images of `LARGE` pixels and more meet the layers of the publication, which ImageNet weights fit; smaller ones lose
resolution only eightfold, as networks for CIFAR do, where their own layers would do so 32 times.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import nn

from prunelab.models.separable import SeparableBottleneck

LARGE = 128
SMALL_STRIDE = 8  # what strides may shrink a small image by, all together


def is_large(shape: tuple[int, ...]) -> bool:
    """Whether an image, [C, H, W], is large enough for the layers made for 224 pixels."""
    return min(shape[1:]) >= LARGE


def resnet(
    depths: Sequence[int], block: str, classes: int, shape: tuple[int, int, int]
) -> nn.Module:
    """A residual network (He et al. 2016) of four stages of so many blocks.

    `block` is torchvision's `BasicBlock` or `Bottleneck`, or `SeparableBottleneck`. Small images meet a 3x3 stem of
    stride 1 and no pooling behind it.
    """
    from torchvision.models import resnet as torchvision_resnet

    kind = (
        SeparableBottleneck
        if block == "SeparableBottleneck"
        else getattr(torchvision_resnet, block)
    )
    model = torchvision_resnet.ResNet(kind, list(depths), num_classes=classes)
    model.conv1 = _stem(model.conv1, shape)
    if not is_large(shape):
        model.maxpool = nn.Identity()
    return model


def densenet121(classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """DenseNet-BC of 121 layers (Huang et al. 2017); its last poolings go where images are too small."""
    from torchvision import models

    model = models.densenet121(num_classes=classes)
    model.features.conv0 = _stem(model.features.conv0, shape)
    if not is_large(shape):
        model.features.pool0 = nn.Identity()
        side = min(shape[1:])
        for transition in (
            model.features.transition1,
            model.features.transition2,
            model.features.transition3,
        ):
            if side < 2:
                transition.pool = nn.Identity()
            side //= 2
    return model


def mobile(name: str, classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """torchvision's network `name`, one of MobileNet v2 and v3 and EfficientNet; small images pass its first strides.

    Their kernels stay, so ImageNet weights fit small images too.
    """
    from torchvision import models

    model = getattr(models, name)(num_classes=classes)
    model.features[0][0] = _fresh_if_other_channels(model.features[0][0], shape[0])
    if not is_large(shape):
        strided = [
            layer
            for layer in model.features.modules()
            if isinstance(layer, nn.Conv2d) and layer.stride[0] > 1
        ]
        total = prod(layer.stride[0] for layer in strided)
        for layer in strided:
            if total <= SMALL_STRIDE:
                break
            total //= layer.stride[0]
            layer.stride = (1, 1)
    return model


def _stem(conv: nn.Conv2d, shape: tuple[int, int, int]) -> nn.Conv2d:
    """The first convolution for such images: 3x3 of stride 1 where they are small."""
    if is_large(shape):
        return _fresh_if_other_channels(conv, shape[0])
    return _initialised(
        nn.Conv2d(shape[0], conv.out_channels, 3, padding=1, bias=conv.bias is not None)
    )


def _fresh_if_other_channels(conv: nn.Conv2d, channels: int) -> nn.Conv2d:
    if conv.in_channels == channels:
        return conv
    geometry: dict[str, Any] = {
        "kernel_size": conv.kernel_size,
        "stride": conv.stride,
        "padding": conv.padding,
    }
    geometry["bias"] = conv.bias is not None
    fresh = nn.Conv2d(channels, conv.out_channels, **geometry)
    return _initialised(fresh)


def _initialised(conv: nn.Conv2d) -> nn.Conv2d:
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv
