"""A bottleneck whose 3x3 convolution is depthwise separable and followed by squeeze-and-excitation."""

from torch import Tensor, nn

REDUCTION = 16  # the squeezed width, as a share of the full one (Hu et al. 2018, section 6.1)


class SqueezeExcitation(nn.Module):
    """Scales every channel by a factor in 0..1 computed from the means of all channels (Hu et al. 2018)."""

    def __init__(self, channels: int):
        super().__init__()
        squeezed = max(1, channels // REDUCTION)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = x.mean(dim=(2, 3), keepdim=True)
        return x * self.fc2(self.fc1(scale).relu()).sigmoid()


class SeparableBottleneck(nn.Module):
    """1x1, depthwise 3x3 with pointwise 1x1 (Howard et al. 2017), squeeze-and-excitation, 1x1; beside a shortcut.

    The arguments are those that torchvision's ResNet gives to its blocks, none of whose grouping or dilation is used.
    """

    expansion = 4

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        groups: int = 1,
        base_width: int = 64,
        dilation: int = 1,
        norm_layer: type[nn.Module] = nn.BatchNorm2d,
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = norm_layer(planes)
        self.depthwise = nn.Conv2d(planes, planes, 3, stride, padding=1, groups=planes, bias=False)
        self.bn_depthwise = norm_layer(planes)
        self.pointwise = nn.Conv2d(planes, planes, 1, bias=False)
        self.bn2 = norm_layer(planes)
        self.se = SqueezeExcitation(planes)
        self.conv3 = nn.Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.bn3 = norm_layer(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn_depthwise(self.depthwise(out)))
        out = self.se(self.relu(self.bn2(self.pointwise(out))))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)
