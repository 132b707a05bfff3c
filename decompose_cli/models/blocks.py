"""Residual blocks of ResNets (He et al., arXiv 1512.03385) and of their pre-activation variant (arXiv 1603.05027).

Every block is built from (in_channels, channels, stride) and returns ``channels * expansion`` maps, so networks choose
among them by name. ``norm_layer`` makes the normalisation from a number of channels. A variant that changes the
residual alone overrides ``residual``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]
Shortcut = Literal["identity", "projection"]
PreActShortcut = Literal["projection", "input-projection"]


class ResidualBlock(nn.Module):
    """relu(residual(x) + shortcut(x)); subclasses define the residual.

    The shortcut is x itself where the shape stays. Where it changes, ``identity`` (option A of arXiv 1512.03385, no
    parameters) takes every ``stride``-th pixel and pads the missing channels with zeros, half of them before and half
    after the existing ones; ``projection`` (option B) is bn(conv1x1(x)), called ``downsample``.
    """

    expansion: ClassVar[int] = 1
    downsample: nn.Module | None

    def _add_shortcut(
        self, in_channels: int, out_channels: int, stride: int, shortcut: Shortcut, norm_layer: Norm
    ) -> None:
        self.stride = stride
        self.padding = (out_channels - in_channels) // 2
        self.downsample = None
        if shortcut == "projection" and (stride != 1 or in_channels != out_channels):
            self.downsample = nn.Sequential(conv1x1(in_channels, out_channels, stride), norm_layer(out_channels))

    def residual(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, channels * expansion, H / stride, W / stride)."""
        raise NotImplementedError

    def shortcut(self, x: Tensor) -> Tensor:
        """Maps of the shape of the residual."""
        if self.downsample is not None:
            projected: Tensor = self.downsample(x)
            return projected
        if self.stride != 1 or self.padding:
            return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return x

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, channels * expansion, H / stride, W / stride)."""
        return F.relu(self.residual(x) + self.shortcut(x))


class BasicBlock(ResidualBlock):
    """A block with the residual bn(conv3x3(relu(bn(conv3x3(x))))), the first convolution strided."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        *,
        shortcut: Shortcut = "projection",
        norm_layer: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn1 = norm_layer(channels)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = norm_layer(channels)
        self._add_shortcut(in_channels, channels, stride, shortcut, norm_layer)

    def residual(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, channels, H / stride, W / stride)."""
        out: Tensor = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return out


class Bottleneck(ResidualBlock):
    """A block with the residual bn(conv1x1(relu(bn(conv3x3(relu(bn(conv1x1(x)))))))), 4 times as wide at its end.

    The 3x3 convolution is strided.
    """

    expansion: ClassVar[int] = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        *,
        shortcut: Shortcut = "projection",
        norm_layer: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.conv1 = conv1x1(in_channels, channels)
        self.bn1 = norm_layer(channels)
        self.conv2 = conv3x3(channels, channels, stride)
        self.bn2 = norm_layer(channels)
        self.conv3 = conv1x1(channels, channels * self.expansion)
        self.bn3 = norm_layer(channels * self.expansion)
        self._add_shortcut(in_channels, channels * self.expansion, stride, shortcut, norm_layer)

    def residual(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, 4 * channels, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        wide: Tensor = self.bn3(self.conv3(out))
        return wide


class PreActBlock(nn.Module):
    """residual(a) + shortcut with a = relu(bn1(x)); subclasses define the residual (arXiv 1603.05027, figure 4e).

    Nothing follows the addition. The shortcut is x itself where the shape stays. Where it changes, ``projection`` is
    conv1x1(a), called ``downsample``, and ``input-projection`` conv1x1(x), under the same name, as in
    https://github.com/bearpaw/pytorch-classification and the networks that began there.
    """

    expansion: ClassVar[int] = 1
    downsample: nn.Module | None
    bn1: nn.Module

    def _add_shortcut(self, in_channels: int, out_channels: int, stride: int, shortcut: PreActShortcut) -> None:
        self.projects_input = shortcut == "input-projection"
        changes = stride != 1 or in_channels != out_channels
        self.downsample = nn.Sequential(conv1x1(in_channels, out_channels, stride)) if changes else None

    def residual(self, activated: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, channels * expansion, H / stride, W / stride)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, channels * expansion, H / stride, W / stride)."""
        activated = F.relu(self.bn1(x))
        shortcut = x if self.downsample is None else self.downsample(x if self.projects_input else activated)
        out: Tensor = self.residual(activated) + shortcut
        return out


class PreActBasicBlock(PreActBlock):
    """A block with the residual conv3x3(relu(bn(conv3x3(a)))), the first convolution strided."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        *,
        shortcut: PreActShortcut = "projection",
        norm_layer: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.bn1 = norm_layer(in_channels)
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn2 = norm_layer(channels)
        self.conv2 = conv3x3(channels, channels)
        self._add_shortcut(in_channels, channels, stride, shortcut)

    def residual(self, activated: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, channels, H / stride, W / stride)."""
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return out


class PreActBottleneck(PreActBlock):
    """A block with the residual conv1x1(relu(bn(conv3x3(relu(bn(conv1x1(a))))))), 4 times as wide at its end.

    The 3x3 convolution is strided.
    """

    expansion: ClassVar[int] = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        *,
        shortcut: PreActShortcut = "projection",
        norm_layer: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.bn1 = norm_layer(in_channels)
        self.conv1 = conv1x1(in_channels, channels)
        self.bn2 = norm_layer(channels)
        self.conv2 = conv3x3(channels, channels, stride)
        self.bn3 = norm_layer(channels)
        self.conv3 = conv1x1(channels, channels * self.expansion)
        self._add_shortcut(in_channels, channels * self.expansion, stride, shortcut)

    def residual(self, activated: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, 4 * channels, H / stride, W / stride)."""
        out = F.relu(self.bn2(self.conv1(activated)))
        wide: Tensor = self.conv3(F.relu(self.bn3(self.conv2(out))))
        return wide


MakeBlock = Callable[[int, int, int], nn.Module]


def stage(make: MakeBlock, in_channels: int, channels: int, expansion: int, blocks: int, stride: int) -> nn.Sequential:
    """``blocks`` blocks in a row, (N, in_channels, H, W) to (N, channels * expansion, H / stride, W / stride).

    Args:
        make: Builds a block from in_channels, channels and stride.
        in_channels: Number of channels that enter the stage.
        channels: Number of channels of the blocks, before their expansion.
        expansion: Expansion of the blocks.
        blocks: Number of blocks, at least one.
        stride: Stride of the first block; the others keep the shape.
    """
    first = make(in_channels, channels, stride)
    return nn.Sequential(first, *(make(channels * expansion, channels, 1) for _ in range(blocks - 1)))


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution without bias; only its stride changes the size of maps."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """A 1x1 convolution without bias."""
    return nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)


def initialise(model: nn.Module) -> None:
    """Draw the weights of all convolutions and linear layers from N(0, 2 / fan_in) (He et al., arXiv 1502.01852)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
