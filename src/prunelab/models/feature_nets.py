"""VGG and AlexNet: convolutions one behind the other, pooled to a grid, flattened and classified."""

from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from prunelab.models.torchvision_nets import is_large

# Simonyan and Zisserman 2015, table 1, columns A, D and E: output channels, and M for a pooling that halves the map.
PLANS: dict[int, list[int | str]] = {
    11: [64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"],
    16: [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"],
    19: [64, 64, "M", 128, 128, "M", *[256] * 4, "M", *[512] * 4, "M", *[512] * 4, "M"],
}
COMPACT: list[int | str] = [64, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"]
GRID = {"vgg": 7, "alexnet": 6}  # what the published classifiers read, pixels a side
HIDDEN = 4096  # units of the published classifiers


class FeatureNet(nn.Module):
    """`features`, a pooling of their map to a small grid, and `classifier`; tensors are named as torchvision's are."""

    def __init__(self, features: nn.Sequential, avgpool: nn.Module, classifier: nn.Module):
        super().__init__()
        self.features = features
        self.avgpool = avgpool
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


class CompactVgg(nn.Module):
    """The VGG for CIFAR of study 3: convolutions without bias before norms, the mean over the map, one linear layer."""

    def __init__(self, classes: int, shape: tuple[int, int, int]):
        super().__init__()
        self.backbone = _vgg_layers(COMPACT, shape[0], norms=True, bias=False, named=True)
        _fit_pools(self.backbone, shape)
        self.classifier = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.backbone(x).mean(dim=(2, 3)))


def vgg(depth: int, norms: bool, classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """VGG with global pooling and one linear layer; its last pools go where images are too small."""
    features = _vgg_layers(PLANS[depth], shape[0], norms=norms)
    _fit_pools(features, shape)
    return FeatureNet(features, nn.AdaptiveAvgPool2d(1), nn.Linear(512, classes))


def vgg_classic(depth: int, classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """VGG as published, with two hidden layers of 4096 units behind a grid of 7 x 7, or less from smaller images."""
    features = _vgg_layers(PLANS[depth], shape[0], norms=False)
    pool, inputs = _grid(_fit_pools(features, shape), GRID["vgg"])
    layers = [
        nn.Linear(512 * inputs, HIDDEN),
        nn.Linear(HIDDEN, HIDDEN),
        nn.Linear(HIDDEN, classes),
    ]
    for layer in layers:
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)
    first, second, head = layers
    classifier = nn.Sequential(
        first, nn.ReLU(True), nn.Dropout(), second, nn.ReLU(True), nn.Dropout(), head
    )
    return FeatureNet(features, pool, classifier)


def alexnet(classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """AlexNet as torchvision has it (Krizhevsky 2014); small images meet a 3x3 stem of stride 1 and smaller grids."""
    stem = (
        nn.Conv2d(shape[0], 64, 11, stride=4, padding=2)
        if is_large(shape)
        else nn.Conv2d(shape[0], 64, 3, 1, 1)
    )
    features = nn.Sequential(
        *(stem, nn.ReLU(True), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(True), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(True)),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(True)),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(3, 2)),
    )
    pool, inputs = _grid(_fit_pools(features, shape), GRID["alexnet"])
    classifier = nn.Sequential(
        *(nn.Dropout(), nn.Linear(256 * inputs, HIDDEN), nn.ReLU(True)),
        *(nn.Dropout(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(True)),
        nn.Linear(HIDDEN, classes),
    )
    return FeatureNet(features, pool, classifier)


def _vgg_layers(
    plan: Sequence[int | str], channels: int, *, norms: bool, bias: bool = True, named: bool = False
) -> nn.Sequential:
    """The convolutions of a plan; the layers are named by kind and number, or by their place alone."""
    layers: list[tuple[str, nn.Module]] = []
    for entry in plan:
        if isinstance(entry, str):
            layers.append(("pool", nn.MaxPool2d(2)))
            continue
        conv = nn.Conv2d(channels, entry, 3, padding=1, bias=bias)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        layers += [
            ("conv", conv),
            *([("bn", nn.BatchNorm2d(entry))] if norms else []),
            ("relu", nn.ReLU(True)),
        ]
        channels = entry
    if not named:
        return nn.Sequential(*(layer for _, layer in layers))
    counts: Counter[str] = Counter()
    numbered = OrderedDict()
    for kind, layer in layers:
        numbered[f"{kind}{counts[kind]}"] = layer
        counts[kind] += 1
    return nn.Sequential(numbered)


def _fit_pools(features: nn.Sequential, shape: tuple[int, int, int]) -> tuple[int, int]:
    """Take out the pools that the map is too small for, in place; returns the height and width of the last map."""
    size = (shape[1], shape[2])
    for name, layer in list(features.named_children()):
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            after = (_after(layer, size[0]), _after(layer, size[1]))
            if isinstance(layer, nn.MaxPool2d) and min(after) < 1:
                setattr(features, name, nn.Identity())
            else:
                size = after
    return size


def _after(layer: Any, side: int) -> int:
    """The side of a map behind a square convolution or pooling."""
    kernel, stride, padding = (
        value[0] if isinstance(value, tuple) else value
        for value in (layer.kernel_size, layer.stride, layer.padding)
    )
    return (side + 2 * padding - kernel) // stride + 1


def _grid(size: tuple[int, int], grid: int) -> tuple[nn.Module, int]:
    """A pooling of a map to at most `grid` pixels a side, and how many pixels it leaves.

    Where the map has as many pixels, as it has for images of the published size, this is torchvision's adaptive
    pooling; that one has no deterministic gradient on a GPU, and repeats pixels of smaller maps to no use.
    """
    left = [min(side, grid) for side in size]
    strides = [side // count for side, count in zip(size, left, strict=True)]
    kernels = [
        side - (count - 1) * stride for side, count, stride in zip(size, left, strides, strict=True)
    ]
    pool = (
        nn.Identity()
        if tuple(left) == size
        else nn.AvgPool2d((kernels[0], kernels[1]), (strides[0], strides[1]))
    )
    return pool, left[0] * left[1]
