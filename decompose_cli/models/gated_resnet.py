"""CIFAR ResNets with soft gates (see :mod:`.gates`), under the names of the original's checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decompose_cli.models.blocks import BasicBlock, Bottleneck, ResidualBlock, conv3x3, initialise, stage
from decompose_cli.models.cifar_resnet import CHANNELS, Block, blocks_per_stage, pooled
from decompose_cli.models.gate_entry import StageSite, UnitSite
from decompose_cli.models.gate_kinds import DEFAULT_GATE, DEFAULT_UNIT_GATE, GATES
from decompose_cli.models.gates import Reading, UnitGate


class Gated(NamedTuple):
    """What a gated network returns in training mode.

    Attributes:
        logits: Logits (N, C).
        readings: Readings of its gates, in the order in which an image meets them.
    """

    logits: Tensor
    readings: tuple[Reading, ...]


class GatedNetwork(nn.Module):
    """A network with gates: logits in evaluation mode, :class:`Gated` in training mode.

    A network has places for gates and takes the gates themselves from the table :data:`.gate_kinds.GATES`.

    Attributes:
        gate_name: Name of the gate in that table.
        split_stages: Names of the first and the last unit of each stage that is taken apart, by the name of the stage.
    """

    head_name = "fc"
    gate_name: str
    split_stages: Mapping[str, tuple[str, str]] = MappingProxyType({})

    def read(self, x: Tensor) -> Gated:
        """(N, 3, H, W) images to logits and what the gates say."""
        raise NotImplementedError

    def gates(self) -> list[nn.Module]:
        """The modules of the gates, in the order in which an image meets them."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor | Gated:
        """Read images in training mode; in evaluation mode return their logits alone."""
        gated = self.read(x)
        return gated if self.training else gated.logits


class StageGatedResNet(GatedNetwork):
    """A plain CIFAR ResNet with projection shortcuts, in which stages are mixed with their first unit.

    A gated stage is ``o1`` (first unit), ``layerK`` (middle units), ``o2`` (last unit) and ``g_layer``; where several
    stages are gated, stage K is ``oK1``, ``layerK``, ``oK2`` and ``g_layer_bK``. Its output is g o2 + (1 - g) o1.

    Args:
        depth: 6n + 2 for basic blocks, 9n + 2 for bottlenecks, n >= 2.
        num_classes: Number of classes C, at least 2.
        gate: Name of a block-level gate in :data:`.gate_kinds.GATES`, which decides the stages that are gated.
        block: ``basic`` or ``bottleneck``.
        input_size: (height, width) of the images, on which gates on flattened maps depend.
        details: Details of the gate, see :data:`.gate_entry.GATE_DETAILS`.
    """

    def __init__(
        self,
        depth: int,
        num_classes: int = 10,
        *,
        gate: str = DEFAULT_GATE,
        block: Block = "basic",
        input_size: tuple[int, int] = (32, 32),
        **details: object,
    ) -> None:
        super().__init__()
        kind = GATES[gate]
        blocks = blocks_per_stage(depth, block)
        if kind.level != "block" or blocks < 2 or num_classes < 2:
            raise ValueError(f"no {gate!r} gate over stages of {blocks} units, for {num_classes} classes")
        unit: type[ResidualBlock] = BasicBlock if block == "basic" else Bottleneck
        make = partial(unit, shortcut="projection")
        self.gate_name, self.reads_first = gate, kind.reads_first
        self._parts = _names_of_parts(kind.place.stages)
        self.split_stages = {f"layer{number}": (first, last) for number, (first, last, _) in self._parts.items()}
        self.conv1 = conv3x3(3, CHANNELS[0])
        self.bn1 = nn.BatchNorm2d(CHANNELS[0])
        stages, entering = [], CHANNELS[0]
        for number, channels in enumerate(CHANNELS):
            stages.append(stage(make, entering, channels, unit.expansion, blocks, stride=1 if number == 0 else 2))
            entering = channels * unit.expansion
        for number, (units, channels) in enumerate(zip(stages, CHANNELS, strict=True), 1):
            if number not in self._parts:
                self.add_module(f"layer{number}", units)
                continue
            height, width = (-(-side // 2 ** (number - 1)) for side in input_size)
            site = StageSite(number, channels * unit.expansion, (height, width), num_classes)
            first, *middle, last = units
            of_first, of_last, of_gate = self._parts[number]
            self.add_module(of_first, first)
            self.add_module(f"layer{number}", nn.Sequential(*middle))
            self.add_module(of_last, last)
            self.add_module(of_gate, kind.made(site, details))
        self.fc = nn.Linear(entering, num_classes)
        initialise(self)

    def read(self, x: Tensor, skip_below: float | None = None) -> Gated:
        """(N, 3, H, W) images to logits and what the gates say.

        Args:
            x: Images.
            skip_below: Images with g below this leave a gated stage with o1. Where the gate reads o1, the later units
                are not run for them.
        """
        x = F.relu(self.bn1(self.conv1(x)))
        readings = []
        for number in range(1, len(CHANNELS) + 1):
            if number in self._parts:
                x, reading = _mixed(x, *self._gated(number), reads_first=self.reads_first, skip_below=skip_below)
                readings.append(reading)
            else:
                x = self.get_submodule(f"layer{number}")(x)
        return Gated(self.fc(pooled(x)), tuple(readings))

    def gates(self) -> list[nn.Module]:
        """The modules of the gates, in the order in which an image meets them."""
        return [gate for _, _, _, gate in self._gated_stages()]

    def _gated_stages(self) -> list[tuple[nn.Module, nn.Module, nn.Module, nn.Module]]:
        return [self._gated(number) for number in self._parts]

    def _gated(self, number: int) -> tuple[nn.Module, nn.Module, nn.Module, nn.Module]:
        """First unit, middle units (counted from 0), last unit, gate."""
        first, last, gate = map(self.get_submodule, self._parts[number])
        return first, self.get_submodule(f"layer{number}"), last, gate


def _names_of_parts(stages: tuple[int, ...]) -> dict[int, tuple[str, str, str]]:
    """Names of the first unit, last unit and gate of each gated stage in the original's checkpoints."""
    if len(stages) == 1:
        return {stages[0]: ("o1", "o2", "g_layer")}
    return {number: (f"o{number}1", f"o{number}2", f"g_layer_b{number}") for number in stages}


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
    """A residual unit with a gate that reads its input and mixes residual and shortcut."""

    gate_layer: UnitGate

    def read(self, x: Tensor) -> tuple[Tensor, Reading]:
        """The output, and what the gate says."""
        reading = self.gate_layer.read(x)
        residual, shortcut = self.residual(x), self.shortcut(x)
        return F.relu(self.gate_layer.mixed(reading.g, residual, shortcut)).to(residual.dtype), reading

    def forward(self, x: Tensor) -> Tensor:
        """The output alone."""
        return self.read(x)[0]


class GatedBasicBlock(_GatedUnit, BasicBlock):
    """:class:`.blocks.BasicBlock` with a gate."""


class GatedBottleneck(_GatedUnit, Bottleneck):
    """:class:`.blocks.Bottleneck` with a gate."""


class UnitGatedResNet(GatedNetwork):
    """A plain CIFAR ResNet with projection shortcuts and a gate, ``gate_layer``, in every residual unit.

    Args:
        depth: 6n + 2 for basic blocks, 9n + 2 for bottlenecks, n >= 1.
        num_classes: Number of classes C.
        gate: Name of a layer-level gate in :data:`.gate_kinds.GATES`.
        block: ``basic`` or ``bottleneck``.
        details: Details of the gate, see :data:`.gate_entry.GATE_DETAILS`.
    """

    def __init__(
        self,
        depth: int,
        num_classes: int = 10,
        *,
        gate: str = DEFAULT_UNIT_GATE,
        block: Block = "basic",
        **details: object,
    ) -> None:
        super().__init__()
        kind = GATES[gate]
        if kind.level != "layer":
            raise ValueError(f"{gate!r} is no gate of single units")
        blocks = blocks_per_stage(depth, block)
        gated = GatedBasicBlock if block == "basic" else GatedBottleneck
        wide = gated.expansion

        def make(in_channels: int, channels: int, stride: int) -> nn.Module:
            unit = gated(in_channels, channels, stride, shortcut="projection")
            unit.add_module("gate_layer", kind.made(UnitSite(in_channels, channels * wide, stride), details))
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

    In a gated stage unit 0 is the first, unit n - 1 the last, and unit i of the others is unit i - 1 of the middle.

    Args:
        state: State dict of a :class:`.cifar_resnet.CifarResNet` with projection shortcuts.
        gated: The gated network, for the stages that it takes apart.

    Returns:
        All weights but those of the gates.
    """
    ends = gated.split_stages
    last = max(int(name.split(".")[1]) for name in state if name.startswith("layer3."))

    def renamed(name: str) -> str:
        stage_name, *rest = name.split(".")
        if stage_name not in ends:
            return name
        number = int(rest[0])
        within = {0: ends[stage_name][0], last: ends[stage_name][1]}.get(number, f"{stage_name}.{number - 1}")
        return ".".join([within, *rest[1:]])

    return {renamed(name): value for name, value in state.items()}
