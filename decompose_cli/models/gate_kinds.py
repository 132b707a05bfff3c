"""The soft gates by name; torch is loaded when one is built.

A new gate is its class in :mod:`.gates` and an entry of this module: networks, checks, training, results and help texts
take what they say and do from the table. (A new kind of place for gates also needs a network in :mod:`.gated_resnet`.)
A program registers a gate of its own with :func:`register`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from decompose_cli.errors import InputError, one_of, param
from decompose_cli.models.entry import ANY
from decompose_cli.models.gate_entry import (
    GATE_DETAILS,
    GateKind,
    GateLoss,
    GateMap,
    GateOutput,
    Place,
    StageSite,
    State,
    UnitSite,
)

if TYPE_CHECKING:
    from torch import nn

    from decompose_cli.models.gates import UnitGate

NO_GATE = "none"
DEFAULT_GATE = "entropy-classifier"
"""The gate that the original proposes."""
DEFAULT_UNIT_GATE = "exclusive"
"""The simplest of the gates in units."""
ORIGINAL_SCALE = "0.0001"
"""Scale of the scores of two-way gates in the original, which keeps g at 1/2."""
_TOLD_IN_ANY_CASE = ("gate_map",)
"""Details whose defaults differ between gates, so a checkpoint says them even where they are at a default."""

LAST_STAGE = Place("over the last stage", "block", (3,))
LAST_TWO_STAGES = Place("over the last two stages", "block", (2, 3))
EVERY_UNIT = Place("in every unit", "layer")


# ---------------------------------------------------------------------------------------------------------- the table


def _classifier(site: StageSite, gate_map: GateMap) -> nn.Module:
    from decompose_cli.models.gates import EntropyClassifierGate

    hidden = 216 if site.number == 2 else 512  # as in the original
    return EntropyClassifierGate(site.channels, hidden, site.num_classes, gate_map)


def _entropy(site: StageSite, gate_map: GateMap) -> nn.Module:
    from decompose_cli.models.gates import EntropyGate

    return EntropyGate(site.inputs, site.num_classes, gate_map)


def _l2(site: StageSite) -> nn.Module:
    from decompose_cli.models.gates import SigmoidGate

    return SigmoidGate(site.inputs)


def _softmax(site: StageSite, gate_loss: GateLoss) -> nn.Module:
    from decompose_cli.models.gates import SoftmaxGate

    return SoftmaxGate(site.inputs, gate_loss)


def _exclusive(site: UnitSite) -> UnitGate:
    from decompose_cli.models.gates import ExclusiveGate

    return ExclusiveGate(site.in_channels, site.out_channels, site.stride)


def _shortcut(site: UnitSite) -> UnitGate:
    from decompose_cli.models.gates import ShortcutGate

    return ShortcutGate(site.in_channels, site.out_channels, site.stride)


class _Layers(NamedTuple):
    """Widths of a gate of two linear layers over the last stage, and of the head."""

    inputs: int
    outputs: int
    features: int
    classes: int

    @property
    def on_pooled(self) -> bool:
        return self.inputs == self.features


def _over_last_stage(fits: Callable[[_Layers], bool]) -> Callable[[State], bool]:
    def shown_by(state: State) -> bool:
        names = ("g_layer.0.weight", "g_layer.1.weight", "fc.weight")
        weights = [state[name] for name in names if name in state and state[name].ndim == 2]
        if len(weights) < len(names):
            return False
        first, second, head = weights
        return fits(_Layers(first.shape[1], len(second), head.shape[1], len(head)))

    return shown_by


def _in_units(outputs: Callable[[int], int], size: int = 1) -> Callable[[State], bool]:
    """Whether weights show gates in units: convolutions of that size, with ``outputs(D)`` outputs in a unit of D."""

    def shown_by(state: State) -> bool:
        weight = state.get("layer1.0.gate_layer.weight")
        last = state.get("layer1.0.bn3.weight", state.get("layer1.0.bn2.weight"))
        if weight is None or last is None or weight.ndim != 4:
            return False
        return len(weight) == outputs(len(last)) and weight.shape[-1] == size

    return shown_by


def _two_way(name: str, summary: str, *, size: int, is_shared: bool) -> GateKind:
    """A gate in units that is a softmax of two scores, for each number or shared by all channels."""

    def build(site: UnitSite, gate_scale: str | float, gate_output: GateOutput) -> UnitGate:
        from decompose_cli.models.gates import TwoWayGate

        channels = 1 if is_shared else site.out_channels
        return TwoWayGate(site.in_channels, channels, site.stride, size, float(gate_scale), gate_output)

    return GateKind(
        name,
        summary,
        EVERY_UNIT,
        build,
        _in_units((lambda _: 2) if is_shared else (lambda channels: 2 * channels), size),
        penalty=0.01,
        details={"gate_scale": "1.0", "gate_output": "mixed"},
        published={"gate_scale": ORIGINAL_SCALE},
        published_bottlenecks={} if is_shared else {"gate_output": "residual"},
    )


GATES: dict[str, GateKind] = {}
"""Gates by name, the default one first."""


def register(kind: GateKind) -> None:
    """Add a gate, which every command then takes by its name.

    Raises:
        ValueError: The name is taken.
    """
    if kind.name in (NO_GATE, *GATES):
        raise ValueError(f"a gate named {kind.name!r} is registered already")
    GATES[kind.name] = kind


for _kind in (
    GateKind(
        DEFAULT_GATE,
        "the entropy of a small classifier on the pooled output of the last unit",
        LAST_STAGE,
        _classifier,
        _over_last_stage(lambda layers: layers.outputs == layers.classes and layers.on_pooled),
        has_classifier=True,
        details={"gate_map": "stretched"},
        published={"gate_map": "original"},
    ),
    GateKind(
        "entropy-classifier-b3b2",
        "the entropy of a small classifier on the pooled output of the first unit, one for each stage",
        LAST_TWO_STAGES,
        _classifier,
        lambda state: "g_layer_b3.0.weight" in state,
        has_classifier=True,
        reads_first=True,
        details={"gate_map": "plain"},
    ),
    GateKind(
        "entropy",
        "the entropy of two layers on the first unit's output",
        LAST_STAGE,
        _entropy,
        _over_last_stage(lambda layers: layers.outputs == layers.classes and not layers.on_pooled),
        reads_first=True,
        details={"gate_map": "plain"},
        published={"gate_map": "plain-10"},
    ),
    GateKind(
        "l2",
        "two layers on the first unit's output, and a sigmoid",
        LAST_STAGE,
        _l2,
        _over_last_stage(lambda layers: layers.outputs == 1),
        reads_first=True,
        penalty=0.5,
    ),
    GateKind(
        "softmax",
        "two layers on the first unit's output, and a softmax of two",
        LAST_STAGE,
        _softmax,
        _over_last_stage(lambda layers: layers.outputs == 2 and not (layers.classes == 2 and layers.on_pooled)),
        reads_first=True,
        penalty=0.1,
        details={"gate_loss": "cross-entropy"},
    ),
    GateKind(
        DEFAULT_UNIT_GATE,
        "a 1x1 convolution and a sigmoid, for each number",
        EVERY_UNIT,
        _exclusive,
        _in_units(lambda channels: channels),
        penalty=0.0,
    ),
    GateKind(
        "shortcut",
        "a 1x1 convolution and a sigmoid, for each number of the shortcut alone (arXiv 1603.05027)",
        EVERY_UNIT,
        _shortcut,
        _in_units(lambda channels: channels),
        penalty=0.0,
    ),
    _two_way(
        "exclusive-element-1x1", "a 1x1 convolution and a softmax of two, for each number", size=1, is_shared=False
    ),
    _two_way(
        "exclusive-tube-1x1", "a 1x1 convolution and a softmax of two, shared by all channels", size=1, is_shared=True
    ),
    _two_way(
        "exclusive-tube-3x3", "a 3x3 convolution and a softmax of two, shared by all channels", size=3, is_shared=True
    ),
):
    register(_kind)


# ------------------------------------------------------------------------------------------ what weights and users say


def gate_shown_by(state: State) -> str | None:
    """The first gate whose networks can have such weights; None for networks without a gate."""
    return next((kind.name for kind in GATES.values() if kind.shown_by(state)), None)


def settle_gate(options: Mapping[str, str]) -> dict[str, str]:
    """Complete the options of a gated network, and leave out those that are at their default.

    Args:
        options: ``gate`` and those of :data:`GATE_DETAILS`, as far as they were given.

    Returns:
        The settled options, which state the map of gates by entropy in any case; empty without a gate.

    Raises:
        InputError: The gate does not have an option, or a value is unknown.
    """
    name = one_of(options.get("gate", NO_GATE), (NO_GATE, *GATES), "gate")
    kind = GATES.get(name)
    for detail in GATE_DETAILS:
        if detail in options and (kind is None or detail not in kind.details):
            what = "without a gate" if kind is None else f"with {param('gate')} {name}"
            raise InputError(f"{param(detail)} has no effect {what}; it is of {', '.join(gates_with(detail))}.")
    if kind is None:
        return {}
    settled = {"gate": name}
    for detail, usual in kind.details.items():
        value = _read(detail, options.get(detail, usual))
        if value != usual or detail in _TOLD_IN_ANY_CASE:
            settled[detail] = value
    return settled


def _read(detail: str, text: str) -> str:
    """Check the value of a detail: one of a few words, or a positive number."""
    if ANY not in GATE_DETAILS[detail]:
        return one_of(text, GATE_DETAILS[detail], detail)
    try:
        value = float(text)
    except ValueError as error:
        raise InputError(f"{param(detail)} {text!r} is not a number.") from error
    if not 0 < value < math.inf:
        raise InputError(f"{param(detail)} {text} is not a positive number.")
    return str(value)


# -------------------------------------------------------------------------------------------------- what help texts say


def gates_with(detail: str) -> list[str]:
    """The names of the gates that have a detail."""
    return [kind.name for kind in GATES.values() if detail in kind.details]


def shown_gates() -> str:
    """The names of the gates by place, for help texts: ``Over the last stage: entropy-classifier (default), ...``."""
    by_place: dict[str, list[str]] = {}
    for kind in GATES.values():
        mark = " (default)" if kind.name == DEFAULT_GATE else ""
        by_place.setdefault(kind.place.text, []).append(f"{kind.name}{mark}")
    text = "; ".join(f"{place}: {', '.join(names)}" for place, names in by_place.items())
    return text[:1].upper() + text[1:]


def shown_defaults(detail: str) -> str:
    """Defaults of a detail by gate, for help texts: ``stretched for entropy-classifier, plain for entropy and ...``."""
    return _by_value({kind.name: kind.details[detail] for kind in GATES.values() if detail in kind.details})


def shown_penalties() -> str:
    """Default weights of the penalties by gate, for help texts: ``0.5 for l2, 0.1 for softmax, ...``."""
    return _by_value({kind.name: f"{kind.penalty:g}" for kind in GATES.values() if kind.penalty is not None})


def _by_value(values: Mapping[str, str]) -> str:
    """Each value with all the names that have it: ``1 for a and b, 2 for c``."""
    names: dict[str, list[str]] = {}
    for name, value in values.items():
        names.setdefault(value, []).append(name)
    return ", ".join(
        f"{value} for {' and '.join([*([', '.join(having[:-1])] if having[1:] else []), having[-1]])}"
        for value, having in names.items()
    )
