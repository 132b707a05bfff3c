"""The facts about a soft gate; :mod:`.gate_kinds` has the table of gates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from decompose_cli.models.entry import ANY

if TYPE_CHECKING:
    from torch import Tensor, nn

GateMap = Literal["stretched", "plain", "original", "plain-10"]
GATE_MAPS: tuple[GateMap, ...] = get_args(GateMap)
GateLoss = Literal["cross-entropy", "bce"]
GATE_LOSSES: tuple[GateLoss, ...] = get_args(GateLoss)
GateOutput = Literal["mixed", "residual"]
GATE_OUTPUTS: tuple[GateOutput, ...] = get_args(GateOutput)
GATE_DETAILS: dict[str, tuple[str, ...]] = {
    "gate_map": GATE_MAPS,
    "gate_loss": GATE_LOSSES,
    "gate_scale": ("1.0", ANY),
    "gate_output": GATE_OUTPUTS,
}
"""Details that some gates let the user choose, and their values; each gate has its own default."""

Level = Literal["block", "layer"]
State = Mapping[str, "Tensor"]


def has_bottlenecks(state: State) -> bool:
    """Whether the residual units of a CIFAR ResNet with these weights are bottlenecks."""
    return "layer1.0.conv3.weight" in state


class StageSite(NamedTuple):
    """A stage that gets a gate.

    Attributes:
        number: Number of the stage, 1 to 3.
        channels: Number of channels of the outputs of its units.
        size: (height, width) of these outputs.
        num_classes: Number of classes C of the network.
    """

    number: int
    channels: int
    size: tuple[int, int]
    num_classes: int

    @property
    def inputs(self) -> int:
        """Number of values in an output."""
        return self.channels * self.size[0] * self.size[1]


class UnitSite(NamedTuple):
    """A residual unit that gets a gate.

    Attributes:
        in_channels: Number of channels of its input.
        out_channels: Number of channels of its output.
        stride: Stride of the output against the input.
    """

    in_channels: int
    out_channels: int
    stride: int


@dataclass(frozen=True)
class Place:
    """The places of the gates of a network.

    Attributes:
        text: The places as help texts name them.
        level: ``block``: gates weigh the last unit of a stage against the first; ``layer``: a gate is in every unit.
        stages: Numbers of the stages with a gate, ascending; empty for gates in units.
    """

    text: str
    level: Level
    stages: tuple[int, ...] = ()

    @property
    def ends(self) -> tuple[str, ...]:
        """Endings of names in results, one for each gate that results keep apart; gates in units share one."""
        return tuple(f"_b{stage}" for stage in self.stages) if len(self.stages) > 1 else ("",)


@dataclass(frozen=True)
class GateKind:
    """A gate and its facts.

    Attributes:
        name: Name as written on the command line.
        summary: What sets g, in one line; shown in the documentation.
        place: Places of the gate in its networks.
        build: Takes a :class:`StageSite` or a :class:`UnitSite`, and the details by name; returns the module.
        shown_by: Takes a state dict; returns whether it can be that of a network with this gate. Where several gates
            have the same weights, the first in the table is assumed.
        has_classifier: Whether the gate has a classifier, trained by cross-entropy with an optimizer of its own.
        reads_first: Whether the gate reads o1 alone, so that the units after that can be skipped.
        penalty: Default weight of its penalty; None if it has none.
        details: Those of :data:`GATE_DETAILS` that the gate has, and their defaults.
        published: Details of the published checkpoints that are not at these defaults; no weight shows them.
        published_bottlenecks: Those that published networks of bottlenecks have besides.
    """

    name: str
    summary: str
    place: Place
    build: Callable[..., nn.Module]
    shown_by: Callable[[State], bool]
    has_classifier: bool = False
    reads_first: bool = False
    penalty: float | None = None
    details: Mapping[str, str] = field(default_factory=dict)
    published: Mapping[str, str] = field(default_factory=dict)
    published_bottlenecks: Mapping[str, str] = field(default_factory=dict)

    @property
    def level(self) -> Level:
        """``block`` or ``layer``."""
        return self.place.level

    def published_for(self, state: State) -> dict[str, str]:
        """The details of a published checkpoint with these weights."""
        return {**self.published, **(self.published_bottlenecks if has_bottlenecks(state) else {})}

    def made(self, site: StageSite | UnitSite, details: Mapping[str, object]) -> nn.Module:
        """Build the module of the gate; details that are left out are at their defaults."""
        return self.build(site, **{**self.details, **details})
