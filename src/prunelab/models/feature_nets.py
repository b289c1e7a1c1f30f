"""VGG and AlexNet: a chain of convolutions, pooled to a grid, flattened and classified."""

from collections import Counter, OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from prunelab.models.torchvision_nets import is_large

# Simonyan and Zisserman 2015, table 1, columns A, D and E: output channels, and M for a pooling
# that halves the map.
PLANS: dict[int, list[int | str]] = {
    11: [64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"],
    16: [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"],
    19: [64, 64, "M", 128, 128, "M", *[256] * 4, "M", *[512] * 4, "M", *[512] * 4, "M"],
}
COMPACT_PLAN: list[int | str] = [64, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"]
GRID = {"vgg": 7, "alexnet": 6}  # pixels a side that the published classifiers read
HIDDEN = 4096  # units of the published classifiers


class FeatureNet(nn.Module):
    """`features`, `avgpool` to a small grid, and `classifier`; tensors have torchvision's names."""

    def __init__(self, features: nn.Sequential, avgpool: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.avgpool = avgpool
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """Class scores [N, classes] of images [N, C, H, W]."""
        x = self.avgpool(self.features(x))
        scores: Tensor = self.classifier(x.flatten(1))
        return scores


class CompactVgg(nn.Module):
    """The VGG for CIFAR of study 3.

    Convolutions without bias and with batch norm, the mean over the map, and one linear layer.
    """

    def __init__(self, classes: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        layers = _vgg_layers(COMPACT_PLAN, shape[0], norms=True, bias=False)
        self.backbone = nn.Sequential(_numbered(layers))
        _fit_pools(self.backbone, shape)
        self.classifier = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores [N, classes] of images [N, C, H, W]."""
        x = self.backbone(x)
        scores: Tensor = self.classifier(x.mean(dim=(2, 3)))
        return scores


def vgg(classes: int, shape: tuple[int, int, int], *, depth: int, norms: bool) -> nn.Module:
    """VGG with global pooling and one linear layer.

    Args:
        classes: number of classes
        shape: (C, H, W) of the images; the last poolings are left out if these are too small
        depth: 11, 16 or 19 layers
        norms: whether batch norm follows each convolution
    """
    features = _vgg_features(depth, shape[0], norms)
    _fit_pools(features, shape)
    return FeatureNet(features, nn.AdaptiveAvgPool2d(1), nn.Linear(512, classes))


def vgg_classic(classes: int, shape: tuple[int, int, int], *, depth: int) -> nn.Module:
    """VGG as published, with two hidden layers of 4096 units behind a grid of 7 x 7.

    Smaller images have a smaller grid.
    """
    features = _vgg_features(depth, shape[0], norms=False)
    map_size = _fit_pools(features, shape)
    avgpool, pixels = _grid_pool(map_size, GRID["vgg"])

    first = nn.Linear(512 * pixels, HIDDEN)
    second = nn.Linear(HIDDEN, HIDDEN)
    head = nn.Linear(HIDDEN, classes)
    for layer in (first, second, head):
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)

    classifier = nn.Sequential(
        first, nn.ReLU(True), nn.Dropout(), second, nn.ReLU(True), nn.Dropout(), head
    )
    return FeatureNet(features, avgpool, classifier)


def alexnet(classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """AlexNet as in torchvision (Krizhevsky 2014).

    Small images see a 3x3 stem of stride 1 and have a smaller grid.
    """
    if is_large(shape):
        stem = nn.Conv2d(shape[0], 64, kernel_size=11, stride=4, padding=2)
    else:
        stem = nn.Conv2d(shape[0], 64, kernel_size=3, stride=1, padding=1)

    features = nn.Sequential(
        stem,
        nn.ReLU(inplace=True),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(64, 192, kernel_size=5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(192, 384, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 256, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(256, 256, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(kernel_size=3, stride=2),
    )
    map_size = _fit_pools(features, shape)
    avgpool, pixels = _grid_pool(map_size, GRID["alexnet"])

    classifier = nn.Sequential(
        nn.Dropout(),
        nn.Linear(256 * pixels, HIDDEN),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(inplace=True),
        nn.Linear(HIDDEN, classes),
    )
    return FeatureNet(features, avgpool, classifier)


def _vgg_features(depth: int, channels: int, norms: bool) -> nn.Sequential:
    """VGG's convolutions, named by their place as in torchvision."""
    layers = _vgg_layers(PLANS[depth], channels, norms=norms)
    return nn.Sequential(*(layer for _, layer in layers))


def _vgg_layers(
    plan: Sequence[int | str], channels: int, *, norms: bool, bias: bool = True
) -> list[tuple[str, nn.Module]]:
    """The layers of a plan, each with its kind: conv, bn, relu or pool."""
    layers: list[tuple[str, nn.Module]] = []
    for entry in plan:
        if isinstance(entry, str):
            layers.append(("pool", nn.MaxPool2d(2)))
            continue

        conv = nn.Conv2d(channels, entry, 3, padding=1, bias=bias)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        channels = entry

        layers.append(("conv", conv))
        if norms:
            layers.append(("bn", nn.BatchNorm2d(channels)))
        layers.append(("relu", nn.ReLU(True)))
    return layers


def _numbered(layers: Sequence[tuple[str, nn.Module]]) -> "OrderedDict[str, nn.Module]":
    """Layers by kind and number: conv0, bn0, relu0, conv1, ..."""
    counts: Counter[str] = Counter()
    numbered: OrderedDict[str, nn.Module] = OrderedDict()
    for kind, layer in layers:
        numbered[f"{kind}{counts[kind]}"] = layer
        counts[kind] += 1
    return numbered


def _fit_pools(features: nn.Sequential, shape: tuple[int, int, int]) -> tuple[int, int]:
    """Remove the poolings that the map is too small for, in place.

    Returns:
        Height and width of the last map.
    """
    _, height, width = shape
    for name, layer in list(features.named_children()):
        if not isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            continue

        after = _output_side(layer, height), _output_side(layer, width)
        if isinstance(layer, nn.MaxPool2d) and min(after) < 1:
            setattr(features, name, nn.Identity())
        else:
            height, width = after
    return height, width


def _output_side(layer: nn.Conv2d | nn.MaxPool2d, side: int) -> int:
    """The side of the map after a square convolution or pooling."""
    kernel, stride, padding = map(_first, (layer.kernel_size, layer.stride, layer.padding))
    return (side + 2 * padding - kernel) // stride + 1


def _first(setting: object) -> int:
    """One side of a setting that may be given per side."""
    value = setting[0] if isinstance(setting, tuple) else setting
    assert isinstance(value, int)  # not "same", which no network here uses
    return value


def _grid_pool(size: tuple[int, int], grid: int) -> tuple[nn.Module, int]:
    """A pooling of a map to at most `grid` pixels a side.

    For images of the published size this equals torchvision's adaptive pooling. Adaptive pooling
    has no deterministic gradient on a GPU, and it would repeat the pixels of smaller maps.

    Returns:
        The pooling, and the number of pixels that it leaves.
    """
    height, width = (min(side, grid) for side in size)
    strides = size[0] // height, size[1] // width
    kernels = size[0] - (height - 1) * strides[0], size[1] - (width - 1) * strides[1]

    pool: nn.Module = nn.AvgPool2d(kernels, strides)
    if (height, width) == size:
        pool = nn.Identity()
    return pool, height * width
