"""Residual networks for small images (He et al. 2016, section 4.2), with shortcuts of option A or B."""

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which where widths change is one of two kinds.

    Option A subsamples and pads with zero channels: it has no parameters, but ties the width of conv2 to that of the
    stage, so that only conv1, the inner one, can lose channels. Option B, `projection`, is a 1x1 convolution with norm.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int, projection: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.stride = stride
        self.padding = (channels_out - channels_in) // 2
        self.shortcut = nn.Sequential()
        if projection and (stride, channels_in) != (1, channels_out):
            conv = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        # In place where nothing needs the old value again, which spares memory traffic.
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += self._shortcut(x)
        return F.relu(out, inplace=True)

    def _shortcut(self, x: Tensor) -> Tensor:
        if len(self.shortcut):
            return self.shortcut(x)
        if self.stride == 1 and self.padding == 0:
            return x
        return F.pad(
            x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding)
        )


class CifarResNet(nn.Module):
    """A stem and three stages of `blocks` blocks, 16, 32 and 64 channels wide: 6 x blocks + 2 layers."""

    def __init__(self, blocks: int, classes: int, channels: int, projection: bool = False):
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
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))


def _stage(
    channels_in: int, channels_out: int, blocks: int, stride: int, projection: bool
) -> nn.Sequential:
    first = Block(channels_in, channels_out, stride, projection)
    return nn.Sequential(
        first, *(Block(channels_out, channels_out, 1, projection) for _ in range(blocks - 1))
    )


def residual_stream(name: str) -> bool:
    """Whether a layer's output is added to the residual stream, whose width shortcuts of option A keep."""
    return name == "conv1" or name.endswith("conv2")
