"""Residual networks for small images (He et al. 2016, section 4.2); shortcuts of option A or B."""

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut.

    Where the width changes, the shortcut is one of two kinds. Option A subsamples and pads with
    zero channels. It has no parameters, but fixes the width of conv2 to that of the stage, so only
    conv1 can lose channels. Option B (`projection`) is a 1x1 convolution with batch norm.

    Args:
        in_channels: channels of the input
        out_channels: channels of the output
        stride: stride of conv1 and of the shortcut
        projection: whether the shortcut is of option B
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, projection: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)

        self.stride = stride
        self.padding = (out_channels - in_channels) // 2  # zero channels on each side, for option A
        self.shortcut = nn.Sequential()
        if projection and (stride, in_channels) != (1, out_channels):
            conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, in_channels, H, W] to [N, out_channels, H / stride, W / stride]."""
        # In place if nothing needs the old value again, which saves memory traffic.
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += self._shortcut(x)
        return F.relu(out, inplace=True)

    def _shortcut(self, x: Tensor) -> Tensor:
        if len(self.shortcut):
            projected: Tensor = self.shortcut(x)
            return projected
        if self.stride == 1 and self.padding == 0:
            return x

        subsampled = x[:, :, :: self.stride, :: self.stride]
        return F.pad(subsampled, (0, 0, 0, 0, self.padding, self.padding))


class CifarResNet(nn.Module):
    """A stem and three stages of `blocks` blocks, 16, 32 and 64 channels wide.

    It has 6 * blocks + 2 layers.
    """

    def __init__(self, blocks: int, classes: int, channels: int, projection: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, 1, projection)
        self.layer2 = _stage(16, 32, blocks, 2, projection)
        self.layer3 = _stage(32, 64, blocks, 2, projection)
        self.linear = nn.Linear(64, classes)

        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores [N, classes] of images [N, channels, H, W]."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.layer3(self.layer2(self.layer1(x)))
        scores: Tensor = self.linear(x.mean(dim=(2, 3)))
        return scores


def _stage(
    in_channels: int, out_channels: int, blocks: int, stride: int, projection: bool
) -> nn.Sequential:
    layers = [Block(in_channels, out_channels, stride, projection)]
    layers += [Block(out_channels, out_channels, 1, projection) for _ in range(blocks - 1)]
    return nn.Sequential(*layers)


def cifar_resnet(
    classes: int, shape: tuple[int, int, int], *, blocks: int, projection: bool = False
) -> nn.Module:
    """The network for images [C, H, W]; see `CifarResNet`."""
    return CifarResNet(blocks, classes, channels=shape[0], projection=projection)
