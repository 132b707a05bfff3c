"""ResNets of the ImageNet type with a stem for 32x32 images.

Parameter names are torchvision's; only ``conv1`` has another shape (3x3 instead of 7x7), and there is no max-pooling.
The same networks stand, under other names, in https://github.com/kuangliu/pytorch-cifar.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decompose_cli.models.blocks import BasicBlock, Norm, conv3x3, initialise, stage


class ResNet32x32(nn.Module):
    """A 3x3 stem of 64 channels, four stages of basic blocks with 64, 128, 256, 512, average pool, linear ``fc``.

    Every stage but the first halves the size of the maps; where the shape changes, shortcuts are projections.

    Args:
        blocks: Number of blocks of each stage: (2, 2, 2, 2) is ResNet-18, (3, 4, 6, 3) is ResNet-34.
        num_classes: Outputs of ``fc``.
        norm_layer: Makes a normalisation layer from its number of channels.
    """

    def __init__(self, blocks: Sequence[int], num_classes: int = 10, *, norm_layer: Norm = nn.BatchNorm2d) -> None:
        super().__init__()
        make = partial(BasicBlock, shortcut="projection", norm_layer=norm_layer)
        first, second, third, fourth = blocks
        self.conv1 = conv3x3(3, 64)
        self.bn1 = norm_layer(64)
        self.layer1 = stage(make, 64, 64, 1, first, stride=1)
        self.layer2 = stage(make, 64, 128, 1, second, stride=2)
        self.layer3 = stage(make, 128, 256, 1, third, stride=2)
        self.layer4 = stage(make, 256, 512, 1, fourth, stride=2)
        self.fc = nn.Linear(512, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) images to (N, num_classes) logits."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        logits: Tensor = self.fc(torch.flatten(F.adaptive_avg_pool2d(out, 1), 1))
        return logits
