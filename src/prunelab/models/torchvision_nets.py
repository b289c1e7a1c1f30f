"""torchvision's networks with a stem and a head that suit small images (their own are made for 224 pixels)."""

from torch import nn


def resnet18(classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """ResNet-18 with a 3x3 stem of stride 1 and no pooling behind it, as is usual for CIFAR."""
    from torchvision import models

    model = models.resnet18(weights=None, num_classes=classes)
    model.conv1 = nn.Conv2d(shape[0], 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model


def vgg11_bn(classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """VGG-11 with batch norm, global pooling and one linear layer; its last pools go where images are too small."""
    from torchvision import models

    model = models.vgg11_bn(weights=None)
    stem = model.features[0]
    if shape[0] != stem.in_channels:
        model.features[0] = nn.Conv2d(shape[0], stem.out_channels, 3, padding=1)
        nn.init.kaiming_normal_(model.features[0].weight, mode="fan_out", nonlinearity="relu")
    side = min(shape[1:])
    for index, layer in enumerate(model.features):
        if isinstance(layer, nn.MaxPool2d):
            if side < 2:
                model.features[index] = nn.Identity()
            side //= 2
    model.avgpool = nn.AdaptiveAvgPool2d(1)
    model.classifier = nn.Linear(512, classes)
    return model
