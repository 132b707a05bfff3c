"""CIFAR ResNets with soft gates (see :mod:`.gates`), under the names of the original's checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decompose_cli.models.blocks import BasicBlock, Bottleneck, ResidualBlock, conv3x3, initialise, stage
from decompose_cli.models.cifar_resnet import CHANNELS, Block, blocks_per_stage, pooled
from decompose_cli.models.gate_kinds import GATES, GateLoss, GateMap
from decompose_cli.models.gates import (
    LAYER_BIAS,
    EntropyClassifierGate,
    EntropyGate,
    Reading,
    SigmoidGate,
    SoftmaxGate,
)


class Gated(NamedTuple):
    """What a gated network returns in training mode.

    Attributes:
        logits: (N, C).
        readings: Of its gates, in the order in which an image meets them.
    """

    logits: Tensor
    readings: tuple[Reading, ...]


class GatedNetwork(nn.Module):
    """A network with gates: logits in evaluation mode, :class:`Gated` in training mode.

    Attributes:
        gate_name: In :data:`.gate_kinds.GATES`.
    """

    head_name = "fc"
    gate_name: str

    def read(self, x: Tensor) -> Gated:
        """(N, 3, H, W) images to logits and what the gates say."""
        raise NotImplementedError

    def gates(self) -> list[nn.Module]:
        """The modules of the gates, in the order in which an image meets them."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor | Gated:
        """As :meth:`read`, or its logits."""
        found = self.read(x)
        return found if self.training else found.logits


class StageGatedResNet(GatedNetwork):
    """A plain CIFAR ResNet with projection shortcuts, whose last stage, or last two, is mixed with its first unit.

    A gated stage is ``o1`` (first unit), ``layerK`` (middle units), ``o2`` (last unit), in the variant with two gates
    ``o21, layer2, o22`` and ``o31, layer3, o32``; its output is g o2 + (1 - g) o1.

    Args:
        depth: 6n + 2 for basic blocks, 9n + 2 for bottlenecks, n >= 2.
        num_classes: C, at least 2.
        gate: Name in :data:`.gates.GATES`, of a block-level gate.
        block: ``basic`` or ``bottleneck``.
        gate_map: How an entropy becomes g; the gate's default if None.
        gate_loss: Of ``softmax``.
        input_size: (height, width) of the images, on which gates on flattened maps depend.
    """

    def __init__(
        self,
        depth: int,
        num_classes: int = 10,
        *,
        gate: str = "entropy-classifier",
        block: Block = "basic",
        gate_map: GateMap | None = None,
        gate_loss: GateLoss = "cross-entropy",
        input_size: tuple[int, int] = (32, 32),
    ) -> None:
        super().__init__()
        kind = GATES[gate]
        blocks = blocks_per_stage(depth, block)
        if kind.level != "block" or blocks < 2 or num_classes < 2:
            raise ValueError(f"no {gate!r} gate over stages of {blocks} units, for {num_classes} classes")
        unit: type[ResidualBlock] = BasicBlock if block == "basic" else Bottleneck
        make = partial(unit, shortcut="projection")
        first, second, third = CHANNELS
        wide = unit.expansion
        self.gate_name, self.reads_first = gate, kind.reads_first
        gate_map = gate_map or kind.gate_map or "plain"
        self.conv1 = conv3x3(3, first)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = stage(make, first, first, wide, blocks, stride=1)
        middle = stage(make, first * wide, second, wide, blocks, stride=2)
        last = stage(make, second * wide, third, wide, blocks, stride=2)
        if gate == "entropy-classifier-b3b2":
            self.o21, self.layer2, self.o22 = _split(middle)
            self.g_layer_b2 = EntropyClassifierGate(second * wide, 216, num_classes, gate_map)
            self.o31, self.layer3, self.o32 = _split(last)
            self.g_layer_b3 = EntropyClassifierGate(third * wide, 512, num_classes, gate_map)
        else:
            self.layer2 = middle
            self.o1, self.layer3, self.o2 = _split(last)
            inputs = third * wide * -(-input_size[0] // 4) * -(-input_size[1] // 4)
            self.g_layer: nn.Module
            if gate == "entropy-classifier":
                self.g_layer = EntropyClassifierGate(third * wide, 512, num_classes, gate_map)
            elif gate == "entropy":
                self.g_layer = EntropyGate(inputs, num_classes, gate_map)
            elif gate == "l2":
                self.g_layer = SigmoidGate(inputs)
            else:
                self.g_layer = SoftmaxGate(inputs, gate_loss)
        self.fc = nn.Linear(third * wide, num_classes)
        initialise(self)

    def read(self, x: Tensor, skip_below: float | None = None) -> Gated:
        """(N, 3, H, W) images to logits and what the gates say.

        Args:
            x: Images.
            skip_below: Images with g below this leave a gated stage with o1. Where the gate reads o1, the later units
                are not run for them.
        """
        x = self.layer1(F.relu(self.bn1(self.conv1(x))))
        stages = self._gated_stages()
        if len(stages) == 1:
            x = self.layer2(x)
        readings = []
        for parts in stages:
            x, reading = _mixed(x, *parts, reads_first=self.reads_first, skip_below=skip_below)
            readings.append(reading)
        return Gated(self.fc(pooled(x)), tuple(readings))

    def gates(self) -> list[nn.Module]:
        """The modules of the gates, in the order in which an image meets them."""
        return [gate for _, _, _, gate in self._gated_stages()]

    def _gated_stages(self) -> list[tuple[nn.Module, nn.Module, nn.Module, nn.Module]]:
        """First unit, middle units, last unit, gate."""
        if self.gate_name == "entropy-classifier-b3b2":
            return [
                (self.o21, self.layer2, self.o22, self.g_layer_b2),
                (self.o31, self.layer3, self.o32, self.g_layer_b3),
            ]
        return [(self.o1, self.layer3, self.o2, self.g_layer)]


def _split(units: nn.Sequential) -> tuple[nn.Module, nn.Sequential, nn.Module]:
    """First, middle (counted from 0) and last."""
    first, *middle, last = units
    return first, nn.Sequential(*middle), last


def _mixed(
    x: Tensor,
    first: nn.Module,
    middle: nn.Module,
    last: nn.Module,
    gate: nn.Module,
    *,
    reads_first: bool,
    skip_below: float | None = None,
) -> tuple[Tensor, Reading]:
    """g o2 + (1 - g) o1, or o1 alone, and what the gate says."""
    o1 = first(x)
    if skip_below is not None and reads_first:
        reading: Reading = gate(o1)
        kept = (reading.g >= skip_below).nonzero()[:, 0]
        if len(kept) == 0:
            return o1, reading
        part = o1[kept]
        return o1.index_copy(0, kept, _mixture(reading.g[kept], last(middle(part)), part)), reading
    o2 = last(middle(o1))
    reading = gate(o1 if reads_first else o2)
    mixed = _mixture(reading.g, o2, o1)
    if skip_below is not None:
        mixed = torch.where((reading.g < skip_below)[:, None, None, None], o1, mixed)
    return mixed, reading


def _mixture(g: Tensor, later: Tensor, earlier: Tensor) -> Tensor:
    g = g.to(later.dtype)[:, None, None, None]
    return g * later + (1 - g) * earlier


class _GatedUnit(ResidualBlock):
    """A residual unit with a gate on what enters it, ``gate_layer`` (He et al., arXiv 1603.05027).

    ``exclusive...``: relu(g F(x) + (1 - g) shortcut(x)); ``shortcut``: relu(F(x) + (1 - g) shortcut(x)).
    """

    gate: str
    scale: float
    gate_layer: nn.Conv2d

    def add_gate(self, gate: str, in_channels: int, out_channels: int, stride: int, scale: float) -> None:
        """Make the gate."""
        self.gate, self.scale = gate, scale
        outputs = 2 if "tube" in gate else (2 if GATES[gate].is_two_way else 1) * out_channels
        size = 3 if gate.endswith("3x3") else 1
        self.gate_layer = nn.Conv2d(in_channels, outputs, size, stride, padding=size // 2)

    def read(self, x: Tensor) -> tuple[Tensor, Reading]:
        """The output, and what the gate says."""
        scores = self.gate_layer(x)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))  # near 0, 1 - g needs the digits
        if GATES[self.gate].is_two_way:
            towards, away = scores.chunk(2, dim=1)
            # The softmax of two is the sigmoid of their difference.
            g = torch.sigmoid(self.scale * (towards - away))
            penalty = F.softplus(towards - away).flatten(1).mean(1)
        else:
            g = torch.sigmoid(scores)
            penalty = g.square().flatten(1).mean(1)
        residual, shortcut = self.residual(x), self.shortcut(x)
        kept = residual if self.gate == "shortcut" else g * residual
        return F.relu(kept + (1 - g) * shortcut).to(residual.dtype), Reading(g, penalty=penalty)

    def forward(self, x: Tensor) -> Tensor:
        """The output alone."""
        return self.read(x)[0]


class GatedBasicBlock(_GatedUnit, BasicBlock):
    """:class:`.blocks.BasicBlock` with a gate."""


class GatedBottleneck(_GatedUnit, Bottleneck):
    """:class:`.blocks.Bottleneck` with a gate."""


class UnitGatedResNet(GatedNetwork):
    """A plain CIFAR ResNet with projection shortcuts and a gate in every residual unit.

    Args:
        depth: 6n + 2 for basic blocks, 9n + 2 for bottlenecks, n >= 1.
        num_classes: C.
        gate: Name in :data:`.gates.GATES`, of a layer-level gate.
        block: ``basic`` or ``bottleneck``.
        gate_scale: s of two-way gates, softmax(s scores); 1e-4 in the original, which keeps g at 1/2.
    """

    def __init__(
        self,
        depth: int,
        num_classes: int = 10,
        *,
        gate: str = "exclusive",
        block: Block = "basic",
        gate_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if GATES[gate].level != "layer":
            raise ValueError(f"{gate!r} is no gate of single units")
        blocks = blocks_per_stage(depth, block)
        kind = GatedBasicBlock if block == "basic" else GatedBottleneck
        wide = kind.expansion

        def make(in_channels: int, channels: int, stride: int) -> nn.Module:
            unit = kind(in_channels, channels, stride, shortcut="projection")
            unit.add_gate(gate, in_channels, channels * wide, stride, gate_scale)
            return unit

        first, second, third = CHANNELS
        self.gate_name = gate
        self.conv1 = conv3x3(3, first)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = stage(make, first, first, wide, blocks, stride=1)
        self.layer2 = stage(make, first * wide, second, wide, blocks, stride=2)
        self.layer3 = stage(make, second * wide, third, wide, blocks, stride=2)
        self.fc = nn.Linear(third * wide, num_classes)
        initialise(self)
        for unit in self._units():
            assert unit.gate_layer.bias is not None
            nn.init.constant_(unit.gate_layer.bias, LAYER_BIAS)

    def _units(self) -> Iterable[_GatedUnit]:
        for layer in (self.layer1, self.layer2, self.layer3):
            for unit in layer:
                assert isinstance(unit, _GatedUnit)
                yield unit

    def read(self, x: Tensor) -> Gated:
        """(N, 3, H, W) images to logits and what the gates say."""
        x = F.relu(self.bn1(self.conv1(x)))
        readings = []
        for unit in self._units():
            x, reading = unit.read(x)
            readings.append(reading)
        return Gated(self.fc(pooled(x)), tuple(readings))

    def gates(self) -> list[nn.Module]:
        """The modules of the gates, in the order in which an image meets them."""
        return [unit.gate_layer for unit in self._units()]


def from_plain(state: Mapping[str, Tensor], gated: GatedNetwork) -> dict[str, Tensor]:
    """The weights of a plain network under the names that they have in a gated one of the same depth and blocks.

    Of a gated stage unit 0 is the first, unit n - 1 the last, and unit i of the others is i - 1 of the middle.

    Args:
        state: Of a :class:`.cifar_resnet.CifarResNet` with projection shortcuts.
        gated: The gated network, for its gate.

    Returns:
        All weights but those of the gates.
    """
    if GATES[gated.gate_name].level == "layer":
        return dict(state)
    is_double = gated.gate_name == "entropy-classifier-b3b2"
    ends = {"layer2": ("o21", "o22"), "layer3": ("o31", "o32")} if is_double else {"layer3": ("o1", "o2")}
    last = max(int(name.split(".")[1]) for name in state if name.startswith("layer3."))

    def renamed(name: str) -> str:
        stage_name, *rest = name.split(".")
        if stage_name not in ends:
            return name
        number = int(rest[0])
        within = {0: ends[stage_name][0], last: ends[stage_name][1]}.get(number, f"{stage_name}.{number - 1}")
        return ".".join([within, *rest[1:]])

    return {renamed(name): value for name, value in state.items()}


def gate_shown_by(state: Mapping[str, Tensor]) -> str | None:
    """The gate of a network with such weights, None without one; ``exclusive`` for ``shortcut``, which has the same."""
    if "g_layer_b3.0.weight" in state:
        return "entropy-classifier-b3b2"
    if "g_layer.0.weight" in state and "g_layer.1.weight" in state and "fc.weight" in state:
        inputs, outputs = state["g_layer.0.weight"].shape[-1], len(state["g_layer.1.weight"])
        classes, features = state["fc.weight"].shape[0], state["fc.weight"].shape[-1]
        if outputs == classes:  # of two classes "softmax" would look like "entropy"
            return "entropy-classifier" if inputs == features else "entropy"
        return "l2" if outputs == 1 else "softmax"
    weight = state.get("layer1.0.gate_layer.weight")
    if weight is None or weight.ndim != 4:
        return None
    last = state.get("layer1.0.bn3.weight", state.get("layer1.0.bn2.weight"))
    if last is None:
        return None
    if len(weight) == 2:
        return f"exclusive-tube-{weight.shape[-1]}x{weight.shape[-1]}"
    return "exclusive-element-1x1" if len(weight) == 2 * len(last) else "exclusive"
