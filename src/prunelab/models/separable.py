"""A bottleneck whose 3x3 convolution is depthwise separable, with squeeze-and-excitation."""

from typing import Any

from torch import Tensor, nn

REDUCTION = 16  # full width to squeezed width (Hu et al. 2018, section 6.1)


class SqueezeExcitation(nn.Module):
    """Scales each channel by a factor in 0..1, from the means of all channels (Hu et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(1, channels // REDUCTION)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scale a map [N, channels, H, W]."""
        means = x.mean(dim=(2, 3), keepdim=True)
        scale: Tensor = self.fc2(self.fc1(means).relu()).sigmoid()
        return x * scale


class SeparableBottleneck(nn.Module):
    """1x1, depthwise 3x3 with pointwise 1x1 (Howard et al. 2017), squeeze-and-excitation, 1x1.

    A block for torchvision's ResNet, which also passes grouping, base width, dilation and the norm
    layer. They are unused: our networks always have the defaults.

    Args:
        inplanes: channels of the input
        planes: channels inside; the output has `expansion` times as many
        stride: stride of the depthwise convolution
        downsample: the shortcut; None adds the input itself
    """

    expansion = 4

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        *unused: Any,
        **unused_options: Any,
    ) -> None:
        super().__init__()
        width = planes * self.expansion

        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.depthwise = nn.Conv2d(planes, planes, 3, stride, padding=1, groups=planes, bias=False)
        self.bn_depthwise = nn.BatchNorm2d(planes)
        self.pointwise = nn.Conv2d(planes, planes, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.se = SqueezeExcitation(planes)
        self.conv3 = nn.Conv2d(planes, width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)

        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inplanes, H, W] to [N, 4 * planes, H / stride, W / stride]."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn_depthwise(self.depthwise(out)))
        out = self.se(self.relu(self.bn2(self.pointwise(out))))
        out = self.bn3(self.conv3(out))

        if self.downsample is None:
            out += x
        else:
            out += self.downsample(x)
        activated: Tensor = self.relu(out)
        return activated
