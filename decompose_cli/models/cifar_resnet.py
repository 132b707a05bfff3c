"""ResNets for 32x32 images: plain (He et al., arXiv 1512.03385, section 4.2) and pre-activation (arXiv 1603.05027).

Parameter names of the plain ones with identity shortcuts are those of
https://github.com/akamaster/pytorch_resnet_cifar10 (BSD-2), so its checkpoints load.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decompose_cli.models.blocks import (
    BasicBlock,
    Bottleneck,
    Norm,
    PreActBasicBlock,
    PreActBottleneck,
    PreActShortcut,
    Shortcut,
    conv3x3,
    initialise,
    stage,
)

Block = Literal["basic", "bottleneck"]
CHANNELS = (16, 32, 64)
_LAYERS_PER_BLOCK = {"basic": 2, "bottleneck": 3}


class CifarResNet(nn.Module):
    """A 3x3 stem, three stages of n blocks with 16, 32, 64 channels, average pool, linear.

    Args:
        depth: 6n + 2 for basic blocks (20, 32, 44, 56, 110, 1202 in the paper), 9n + 2 for bottlenecks (164), n >= 1.
        num_classes: Outputs of the last layer.
        shortcut: ``identity`` (option A of the paper, no parameters; the last layer is called ``linear``) or
            ``projection`` (option B; the last layer is called ``fc``), as in :class:`.blocks.ResidualBlock`.
        block: ``basic`` or ``bottleneck``, whose output is 4 times as wide.
        norm_layer: Makes a normalisation layer from its number of channels.

    Raises:
        ValueError: The depth is not one of these, or bottlenecks are asked for with identity shortcuts.
    """

    def __init__(
        self,
        depth: int,
        num_classes: int = 10,
        *,
        shortcut: Shortcut = "identity",
        block: Block = "basic",
        norm_layer: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        blocks = blocks_per_stage(depth, block)
        if shortcut not in ("identity", "projection") or (shortcut == "identity" and block == "bottleneck"):
            raise ValueError(f"{block} blocks cannot have {shortcut!r} shortcuts")
        kind = BasicBlock if block == "basic" else Bottleneck
        make = partial(kind, shortcut=shortcut, norm_layer=norm_layer)
        first, second, third = CHANNELS
        wide = kind.expansion
        self.conv1 = conv3x3(3, first)
        self.bn1 = norm_layer(first)
        self.layer1 = stage(make, first, first, wide, blocks, stride=1)
        self.layer2 = stage(make, first * wide, second, wide, blocks, stride=2)
        self.layer3 = stage(make, second * wide, third, wide, blocks, stride=2)
        self.head_name = "linear" if shortcut == "identity" else "fc"
        self.add_module(self.head_name, nn.Linear(third * wide, num_classes))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) images to (N, num_classes) logits."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        logits: Tensor = self.get_submodule(self.head_name)(pooled(out))
        return logits


class PreActCifarResNet(nn.Module):
    """A 3x3 stem, three stages of n pre-activation blocks, bn-relu, average pool, linear ``fc``.

    Args:
        depth: 6n + 2 for basic blocks (20, 110), 9n + 2 for bottlenecks (164), n >= 1.
        num_classes: Outputs of ``fc``.
        shortcut: ``projection`` or ``input-projection``, as in :class:`.blocks.PreActBlock`.
        block: ``basic`` or ``bottleneck``, whose output is 4 times as wide.
        norm_layer: Makes a normalisation layer from its number of channels.

    Raises:
        ValueError: The depth is not one of these.
    """

    def __init__(
        self,
        depth: int,
        num_classes: int = 10,
        *,
        shortcut: PreActShortcut = "projection",
        block: Block = "basic",
        norm_layer: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        blocks = blocks_per_stage(depth, block)
        kind = PreActBasicBlock if block == "basic" else PreActBottleneck
        make = partial(kind, shortcut=shortcut, norm_layer=norm_layer)
        first, second, third = CHANNELS
        wide = kind.expansion
        self.conv1 = conv3x3(3, first)
        self.layer1 = stage(make, first, first, wide, blocks, stride=1)
        self.layer2 = stage(make, first * wide, second, wide, blocks, stride=2)
        self.layer3 = stage(make, second * wide, third, wide, blocks, stride=2)
        self.bn = norm_layer(third * wide)
        self.fc = nn.Linear(third * wide, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) images to (N, num_classes) logits."""
        out = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        logits: Tensor = self.fc(pooled(F.relu(self.bn(out))))
        return logits


def blocks_per_stage(depth: int, block: Block) -> int:
    """The number n of blocks per stage in a depth of 6n + 2, or 9n + 2 with bottlenecks.

    Raises:
        ValueError: The depth has no such n.
    """
    if block not in _LAYERS_PER_BLOCK:
        raise ValueError(f"block {block!r} is neither basic nor bottleneck")
    step = 3 * _LAYERS_PER_BLOCK[block]
    if depth < step + 2 or depth % step != 2:
        raise ValueError(f"depth {depth} is not {step}n + 2")
    return (depth - 2) // step


def pooled(maps: Tensor) -> Tensor:
    """The mean over positions: (N, D, H, W) to (N, D)."""
    return torch.flatten(F.adaptive_avg_pool2d(maps, 1), 1)
