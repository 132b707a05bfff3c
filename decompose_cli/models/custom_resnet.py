"""A shallow, wide ResNet that learns CIFAR-10 in a few epochs: 6,573,130 parameters for 10 classes.

It follows David Page's network for the DAWNBench contest (https://github.com/davidcpage/cifar10-fast), in the published
variant that has a bias in its last layer and adds the input of a residual pair twice.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decompose_cli.models.blocks import Norm, conv3x3

LOGIT_SCALE = 0.125


class ResidualPair(nn.Module):
    """relu(bn(conv(relu(bn(conv(x)))))) + scale * x, with nothing after the addition.

    Args:
        channels: Number of channels of input and output.
        scale: Factor of the shortcut.
        norm_layer: Makes a normalisation layer from its number of channels.
    """

    def __init__(self, channels: int, scale: float, norm_layer: Norm = nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, channels)
        self.bn1 = norm_layer(channels)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = norm_layer(channels)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, channels, H, W)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return out + self.scale * x


class CustomResNet(nn.Module):
    """conv-bn-relu, three times conv-pool-bn-relu with 128, 256, 512 channels, max-pool, linear, logits times 0.125.

    A residual pair follows the first and the third of the three. The linear layer has a bias: without it the network
    would have 10 parameters fewer than the published 6,573,130.

    Args:
        num_classes: Outputs of the last layer ``fc``.
        residual_scale: Factor of x in the residual pairs. The published code adds x twice, hence 2.
        norm_layer: Makes a normalisation layer from its number of channels.
    """

    def __init__(
        self, num_classes: int = 10, *, residual_scale: float = 2.0, norm_layer: Norm = nn.BatchNorm2d
    ) -> None:
        super().__init__()
        self.prep = nn.Sequential(conv3x3(3, 64), norm_layer(64), nn.ReLU())
        self.layer1 = _halving(64, 128, norm_layer)
        self.residual1 = ResidualPair(128, residual_scale, norm_layer)
        self.layer2 = _halving(128, 256, norm_layer)
        self.layer3 = _halving(256, 512, norm_layer)
        self.residual3 = ResidualPair(512, residual_scale, norm_layer)
        self.fc = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) images to (N, num_classes) logits."""
        out = self.residual1(self.layer1(self.prep(x)))
        out = self.residual3(self.layer3(self.layer2(out)))
        # On 32x32 images the maps are 4x4 here, so this is max-pooling over 4.
        logits: Tensor = self.fc(torch.flatten(F.adaptive_max_pool2d(out, 1), 1)) * LOGIT_SCALE
        return logits


def _halving(in_channels: int, channels: int, norm_layer: Norm) -> nn.Sequential:
    return nn.Sequential(conv3x3(in_channels, channels), nn.MaxPool2d(2), norm_layer(channels), nn.ReLU())
