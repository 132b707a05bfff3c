"""Soft gates weigh a later output of a network against an earlier one, for each image.

They come from Garg et al., Memorisation and Generalisation in Deep CNNs Using Soft Gating Mechanisms, and the
experiments around it. Every gate is a small module that gives a :class:`Reading`. Block-level gates are called with o1
or o2, the outputs of the first and of the last unit of a stage, (N, D, H, W). Layer-level gates, see
:class:`UnitGate`, read the input of a residual unit. :mod:`.gate_kinds` has the gates by name.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from decompose_cli.models.gate_entry import GateLoss, GateMap, GateOutput

_ROUNDED_LOG = {10: 2.3026, 100: 4.6052}
"""The original's logarithms of the number of classes."""
LAYER_BIAS = -6.0
"""First bias of layer-level gates: it nearly closes gates of one score (arXiv 1603.05027), but not those of two."""


class Reading(NamedTuple):
    """The output of a gate for each image of a batch.

    Attributes:
        g: Weight of the later output, in (0, 1); the earlier has 1 - g. (N,), or (N, D or 1, H, W) in a unit.
        logits: Logits of the gate's own classifier (N, C), with gradients for its parameters only; None without one.
        entropy: Entropy of that classifier's prediction (N,), in nats.
        penalty: Penalty to add to the loss, before it is weighted, (N,); None if the gate has none.
    """

    g: Tensor
    logits: Tensor | None = None
    entropy: Tensor | None = None
    penalty: Tensor | None = None


def entropy_of(logits: Tensor) -> Tensor:
    """Entropy of the softmax of logits (N, C): (N,), in nats."""
    logs = F.log_softmax(logits, dim=1)
    return -(logs.exp() * logs).sum(1)


def from_entropy(entropy: Tensor, num_classes: int, gate_map: GateMap) -> Tensor:
    """Map an entropy H between 0 and log C to g, both (N,).

    ``plain``: sigmoid(H - log(C) / 2). ``stretched``: sigmoid((8 / 2.3) (log 10 / log C) (H - log(C) / 2)), from 0.018
    to 0.982 whatever C. ``original``: sigmoid((H - B + 1.15) 8 / 2.3 - 4), with B = 2.3026 / 2 for 10 classes and
    4.6052 / 2 for 100, as the original's checkpoints were trained. ``plain-10``: sigmoid(H - 2.3026 / 2)
    whatever C, as the original's gate ``entropy``.
    """
    half = math.log(num_classes) / 2
    if gate_map == "plain-10":
        return torch.sigmoid(entropy - _ROUNDED_LOG[10] / 2)
    if gate_map == "plain":
        return torch.sigmoid(entropy - half)
    if gate_map == "stretched":
        return torch.sigmoid((8 / 2.3) * (math.log(10) / (2 * half)) * (entropy - half))
    return torch.sigmoid((entropy - _ROUNDED_LOG.get(num_classes, 2 * half) / 2 + 1.15) * 8 / 2.3 - 4)


class _TwoLinear(nn.Sequential):
    """Two linear layers, and no non-linearity between them: called ``0`` and ``1``, as in the original."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__(nn.Linear(inputs, hidden), nn.Linear(hidden, outputs))

    def scores(self, x: Tensor, *, held: bool = False) -> Tensor:
        """(N, inputs) to (N, outputs); with ``held`` the parameters get no gradients."""
        for layer in self:
            assert isinstance(layer, nn.Linear)
            weight, bias = (layer.weight.detach(), layer.bias.detach()) if held else (layer.weight, layer.bias)
            x = F.linear(x, weight, bias)
        return x.to(torch.promote_types(x.dtype, torch.float32))


class EntropyClassifierGate(_TwoLinear):
    """Makes g from the entropy of a classifier on pooled maps, which is trained by its own cross-entropy alone.

    Gradients through g reach the maps and not the classifier; gradients through the logits reach the classifier and
    not the maps.

    Args:
        channels: Number of channels D.
        hidden: Width between the two layers.
        num_classes: Number of classes C, at least 2.
        gate_map: Map from entropy to g, see :func:`from_entropy`.
    """

    def __init__(self, channels: int, hidden: int, num_classes: int, gate_map: GateMap) -> None:
        super().__init__(channels, hidden, num_classes)
        self.num_classes, self.gate_map = num_classes, gate_map

    def forward(self, maps: Tensor) -> Reading:
        """(N, D, H, W)."""
        pooled = F.adaptive_avg_pool2d(maps, 1).flatten(1)
        entropy = entropy_of(self.scores(pooled, held=True))
        logits = self.scores(pooled.detach())
        return Reading(from_entropy(entropy, self.num_classes, self.gate_map), logits, entropy)


class EntropyGate(_TwoLinear):
    """Makes g from the entropy of two layers on the flattened maps, trained like the rest of the network.

    Args:
        inputs: Size D H W of the maps.
        num_classes: Number of classes C, at least 2.
        gate_map: Map from entropy to g, see :func:`from_entropy`.
    """

    def __init__(self, inputs: int, num_classes: int, gate_map: GateMap) -> None:
        super().__init__(inputs, 512, num_classes)
        self.num_classes, self.gate_map = num_classes, gate_map

    def forward(self, maps: Tensor) -> Reading:
        """(N, D, H, W)."""
        entropy = entropy_of(self.scores(maps.flatten(1)))
        return Reading(from_entropy(entropy, self.num_classes, self.gate_map), entropy=entropy)


class SigmoidGate(_TwoLinear):
    """g = sigmoid of two layers on the flattened maps; the penalty g^2 closes it where the later units are of no use.

    Args:
        inputs: Size D H W of the maps.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__(inputs, 512, 1)

    def forward(self, maps: Tensor) -> Reading:
        """(N, D, H, W)."""
        g = torch.sigmoid(self.scores(maps.flatten(1)))[:, 0]
        return Reading(g, penalty=g.square())


class SoftmaxGate(_TwoLinear):
    """The softmax of two outputs weighs o1 and o2; the penalty is the gate's cross-entropy towards o1.

    Args:
        inputs: Size D H W of the maps.
        loss: ``cross-entropy``, or ``bce``: each output by itself, the first towards 1 and the second towards 0.
    """

    def __init__(self, inputs: int, loss: GateLoss = "cross-entropy") -> None:
        super().__init__(inputs, 512, 2)
        self.loss = loss

    def forward(self, maps: Tensor) -> Reading:
        """(N, D, H, W)."""
        scores = self.scores(maps.flatten(1))
        if self.loss == "bce":
            target = torch.tensor([1.0, 0.0], device=scores.device, dtype=scores.dtype).expand_as(scores)
            penalty = F.binary_cross_entropy_with_logits(scores, target, reduction="none").mean(1)
        else:
            penalty = -F.log_softmax(scores, dim=1)[:, 0]
        return Reading(F.softmax(scores, dim=1)[:, 1], penalty=penalty)


class UnitGate(nn.Conv2d):
    """A gate on the input of a residual unit (He et al., arXiv 1603.05027).

    The module is the convolution that makes the scores, so these can be looked at like the output of any layer.

    Args:
        in_channels: Number of channels of the unit's input.
        outputs: Number of scores at each position.
        stride: Stride of the unit.
        size: Side of the convolution's kernel, odd.
    """

    def __init__(self, in_channels: int, outputs: int, stride: int, size: int = 1) -> None:
        super().__init__(in_channels, outputs, size, stride, padding=size // 2)
        assert self.bias is not None
        nn.init.constant_(self.bias, LAYER_BIAS)

    def read(self, x: Tensor) -> Reading:
        """Read the input of the unit, (N, in_channels, H, W)."""
        scores: Tensor = self(x)
        return self.reading(scores.to(torch.promote_types(scores.dtype, torch.float32)))  # near 0, 1 - g needs digits

    def reading(self, scores: Tensor) -> Reading:
        """Turn scores (N, outputs, H, W), float32 or better, into a reading."""
        raise NotImplementedError

    def mixed(self, g: Tensor, residual: Tensor, shortcut: Tensor) -> Tensor:
        """Mix residual and shortcut into the output of the unit before its last non-linearity."""
        return g * residual + (1 - g) * shortcut


class ExclusiveGate(UnitGate):
    """g = sigmoid of a score for each number, penalty g^2; the unit gives relu(g F(x) + (1 - g) shortcut(x)).

    Args:
        in_channels: Number of channels of the unit's input.
        out_channels: Number of channels of the unit's output.
        stride: Stride of the unit.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, stride)

    @override
    def reading(self, scores: Tensor) -> Reading:
        g = torch.sigmoid(scores)
        return Reading(g, penalty=g.square().flatten(1).mean(1))


class ShortcutGate(ExclusiveGate):
    """An :class:`ExclusiveGate` whose unit gives relu(F(x) + (1 - g) shortcut(x)) instead."""

    @override
    def mixed(self, g: Tensor, residual: Tensor, shortcut: Tensor) -> Tensor:
        return residual + (1 - g) * shortcut


class TwoWayGate(UnitGate):
    """(g, 1 - g) = softmax(s (a, b)) of two scores; the penalty is their cross-entropy, without s, towards b.

    Args:
        in_channels: Number of channels of the unit's input.
        channels: Number of channels of g: that of the unit's output, or one that all of its channels share.
        stride: Stride of the unit.
        size: Side of the convolution's kernel, odd.
        scale: Factor s of the scores.
        output: ``mixed``: the unit gives relu(g F(x) + (1 - g) shortcut(x)). ``residual``: relu(F(x)), neither gate nor
            shortcut, as in the original's bottlenecks, which compute the mixture and return the other.
    """

    def __init__(
        self, in_channels: int, channels: int, stride: int, size: int, scale: float, output: GateOutput = "mixed"
    ) -> None:
        super().__init__(in_channels, 2 * channels, stride, size)
        self.scale, self.output = scale, output

    @override
    def reading(self, scores: Tensor) -> Reading:
        towards, away = scores.chunk(2, dim=1)
        # The softmax of two is the sigmoid of their difference.
        g = torch.sigmoid(self.scale * (towards - away))
        return Reading(g, penalty=F.softplus(towards - away).flatten(1).mean(1))

    @override
    def mixed(self, g: Tensor, residual: Tensor, shortcut: Tensor) -> Tensor:
        if self.output == "mixed":
            return super().mixed(g, residual, shortcut)
        # Training in several processes waits for a gradient of every parameter, so shortcut and gate get one of zero.
        return residual + 0 * (g * shortcut) if self.training else residual
