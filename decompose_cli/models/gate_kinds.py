"""The soft gates by name, and what may be chosen about them; torch is not needed to say it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from decompose_cli.errors import InputError, one_of

GateMap = Literal["stretched", "plain", "original"]
GATE_MAPS: tuple[GateMap, ...] = get_args(GateMap)
GateLoss = Literal["cross-entropy", "bce"]
GATE_LOSSES: tuple[GateLoss, ...] = get_args(GateLoss)
GATE_DETAILS = ("gate_map", "gate_loss", "gate_scale")
NO_GATE = "none"
ORIGINAL_SCALE = "0.0001"
"""Of the scores of two-way gates in units, in the original: it keeps g at 1/2."""


@dataclass(frozen=True)
class GateKind:
    """What is known of a gate by its name.

    Attributes:
        name: As written on the command line.
        level: ``block`` or ``layer``.
        has_classifier: Whether it is trained by cross-entropy, with an optimizer of its own.
        reads_first: Whether it reads o1 alone, so that the units after that can be skipped.
        penalty: Default weight of its penalty; None if it has none.
        gate_map: Default, of gates by entropy; None of others.
        is_two_way: Whether it is the softmax of two outputs.
    """

    name: str
    level: Literal["block", "layer"]
    has_classifier: bool = False
    reads_first: bool = False
    penalty: float | None = None
    gate_map: GateMap | None = None
    is_two_way: bool = False


GATES: dict[str, GateKind] = {
    kind.name: kind
    for kind in (
        GateKind("entropy-classifier", "block", has_classifier=True, gate_map="stretched"),
        GateKind("entropy-classifier-b3b2", "block", has_classifier=True, reads_first=True, gate_map="plain"),
        GateKind("entropy", "block", reads_first=True, gate_map="plain"),
        GateKind("l2", "block", reads_first=True, penalty=0.5),
        GateKind("softmax", "block", reads_first=True, penalty=0.1, is_two_way=True),
        GateKind("exclusive", "layer", penalty=0.0),
        GateKind("shortcut", "layer", penalty=0.0),
        GateKind("exclusive-element-1x1", "layer", penalty=0.01, is_two_way=True),
        GateKind("exclusive-tube-1x1", "layer", penalty=0.01, is_two_way=True),
        GateKind("exclusive-tube-3x3", "layer", penalty=0.01, is_two_way=True),
    )
}
"""By name, the proposed one first."""


def settle_gate(options: Mapping[str, str]) -> dict[str, str]:
    """Options of a gated network, complete and without those that are at their default.

    Args:
        options: ``gate``, ``gate_map``, ``gate_loss``, ``gate_scale``, as far as they were given.

    Returns:
        The same, with the map of gates by entropy said in any case; empty without a gate.

    Raises:
        InputError: An option that the gate does not have, or a value that is unknown.
    """
    name = one_of(options.get("gate", NO_GATE), (NO_GATE, *GATES), "gate")
    kind = GATES.get(name)
    having = {
        "gate_map": [other.name for other in GATES.values() if other.gate_map is not None],
        "gate_loss": ["softmax"],
        "gate_scale": [other.name for other in GATES.values() if other.is_two_way and other.level == "layer"],
    }
    for option in GATE_DETAILS:
        if option in options and name not in having[option]:
            what = "without a gate" if kind is None else f"with --gate {name}"
            raise InputError(
                f"--{option.replace('_', '-')} has no effect {what}; it is of {', '.join(having[option])}."
            )
    if kind is None:
        return {}
    settled = {"gate": name}
    if kind.gate_map is not None:
        settled["gate_map"] = one_of(options.get("gate_map", kind.gate_map), GATE_MAPS, "gate_map")
    loss = one_of(options.get("gate_loss", GATE_LOSSES[0]), GATE_LOSSES, "gate_loss")
    scale = _positive(options.get("gate_scale", "1"), "--gate-scale")
    if loss != GATE_LOSSES[0]:
        settled["gate_loss"] = loss
    if scale != "1.0":
        settled["gate_scale"] = scale
    return settled


def may_be(named: str, shown: str) -> bool:
    """Whether weights that look like those of gate ``shown`` can be those of gate ``named``.

    ``shortcut`` has the same weights as ``exclusive``, and of two classes ``softmax`` the same as ``entropy``.
    """
    return (named, shown) in {("shortcut", "exclusive"), ("softmax", "entropy")}


def _positive(text: str, option: str) -> str:
    try:
        value = float(text)
    except ValueError as error:
        raise InputError(f"{option} {text!r} is not a number.") from error
    if not 0 < value < math.inf:
        raise InputError(f"{option} {text} is not a positive number.")
    return str(value)
