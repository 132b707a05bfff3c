"""The settings of a network's gates and of their training: one object from the options to the objective."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from decompose_cli.errors import InputError, one_of, param
from decompose_cli.models.gate_kinds import GATES
from decompose_cli.printable import shortest

GateSchedule = Literal["constant", "step50"]
GATE_SCHEDULES: tuple[GateSchedule, ...] = get_args(GateSchedule)
Start = Literal["scratch", "baseline"]
STARTS: tuple[Start, ...] = get_args(Start)
LR_GATE = 0.01
_OF_NETWORK = ("gate", "block", "gate_map", "gate_loss", "gate_scale", "gate_output")
_OF_CLASSIFIER = ("lr_gate", "gate_schedule", "gate_iters")
_IN_CONFIGURATIONS = {"penalty": "lambda"}
"""Names in configurations that are no names in Python, by the name of the attribute."""


@dataclass(frozen=True)
class GateSettings:
    """A gated network and how its gates are trained; None is a choice that was left open.

    Attributes:
        gate: Name in :data:`decompose_cli.models.gate_kinds.GATES`.
        depth: Depth of the network, in place of its name.
        block: Residual units, ``basic`` or ``bottleneck``.
        gate_map: How an entropy becomes g.
        gate_loss: Penalty of the gates that have a choice.
        gate_scale: s of two-way gates in units, a number as text.
        gate_output: Output of the units of two-way gates.
        lr_gate: Learning rate of the gate's own classifier.
        gate_schedule: How ``lr_gate`` changes. ``step50``: times 0.1 as the 50th, 100th, ... epoch begins, as in the
            original; these numbers are scaled with the recipe.
        gate_iters: n; the backbone is trained in every n-th step, the gate's classifier in every step.
        penalty: lambda, the weight of the penalty in the loss.
        init: Where the backbone begins, ``scratch`` or ``baseline``; None for ``baseline`` where one is given.
        baseline: Weights of a plain network to begin with, a file or URL.
        label_noise: Share of the training images that get another label.
        skip_below: Threshold of g below which gated stages are left at o1, in another measurement at the end.

    Raises:
        InputError: A word is unknown, or a number is out of range.
    """

    gate: str | None = None
    depth: int | None = None
    block: str | None = None
    gate_map: str | None = None
    gate_loss: str | None = None
    gate_scale: str | None = None
    gate_output: str | None = None
    lr_gate: float | None = None
    gate_schedule: GateSchedule | None = None
    gate_iters: int | None = None
    penalty: float | None = None
    init: Start | None = None
    baseline: str | None = None
    label_noise: float | None = None
    skip_below: float | None = None

    def __post_init__(self) -> None:
        for name, choices in (("gate", tuple(GATES)), ("gate_schedule", GATE_SCHEDULES), ("init", STARTS)):
            value = getattr(self, name)
            if value is not None:
                one_of(value, choices, name)
        if self.lr_gate is not None and not 0 < self.lr_gate < float("inf"):
            raise InputError(f"{param('lr_gate')} {shortest(self.lr_gate)} is not a positive number.")
        if self.gate_iters is not None and self.gate_iters < 1:
            raise InputError(f"{param('gate_iters')} {self.gate_iters} is not at least 1.")
        if self.penalty is not None and not 0 <= self.penalty < float("inf"):
            raise InputError(f"{param('penalty')} {shortest(self.penalty)} is not a number from 0 upwards.")

    def network_options(self) -> dict[str, str]:
        """The given options of the network itself, as :meth:`.models.entry.ModelEntry.configured` takes it."""
        return {name: value for name in _OF_NETWORK if (value := getattr(self, name)) is not None}

    def given(self) -> dict[str, Any]:
        """The given settings of training, under the names of the configuration of a run."""
        fields = [field.name for field in dataclasses.fields(self) if field.name not in (*_OF_NETWORK, "depth")]
        values = {_IN_CONFIGURATIONS.get(name, name): getattr(self, name) for name in fields}
        return {name: value for name, value in values.items() if value is not None}

    def given_of_training(self) -> list[str]:
        """Names of the attributes that were given and mean something only where a network is trained."""
        names = [field.name for field in dataclasses.fields(self)]
        others = (*_OF_NETWORK, "depth", "skip_below")
        return [name for name in names if name not in others and getattr(self, name) is not None]

    def completed(self, gate: str) -> GateSettings:
        """The settings for a gate, with its defaults where a choice was left open, and None where it has none.

        Raises:
            InputError: Something was given that the gate has no use for.
        """
        kind = GATES[gate]
        for name in _OF_CLASSIFIER:
            if getattr(self, name) is not None and not kind.has_classifier:
                having = ", ".join(other.name for other in GATES.values() if other.has_classifier)
                raise InputError(
                    f"{param(name)} has no effect with gate {gate}; it belongs to gates with a classifier: {having}."
                )
        if self.penalty is not None and kind.penalty is None:
            having = ", ".join(other.name for other in GATES.values() if other.penalty is not None)
            raise InputError(
                f"{param('penalty')} has no effect with gate {gate}; it belongs to gates with a penalty: {having}."
            )
        own: dict[str, Any] = {
            "lr_gate": LR_GATE if self.lr_gate is None else self.lr_gate,
            "gate_schedule": self.gate_schedule or GATE_SCHEDULES[0],
            "gate_iters": self.gate_iters or 1,
        }
        return dataclasses.replace(
            self,
            gate=gate,
            penalty=kind.penalty if self.penalty is None else self.penalty,
            **(own if kind.has_classifier else dict.fromkeys(own)),
        )

    def as_configuration(self) -> dict[str, Any]:
        """How the gates are trained, for the configuration of a run."""
        names = (*_OF_CLASSIFIER, "penalty", "baseline", "label_noise", "skip_below")
        return {_IN_CONFIGURATIONS.get(name, name): getattr(self, name) for name in names}

    @classmethod
    def of_configuration(cls, config: Mapping[str, Any]) -> GateSettings:
        """The settings that the configuration of a run holds."""
        names = (*_OF_CLASSIFIER, "penalty", "init", "baseline", "label_noise", "skip_below")
        values = {name: config[_IN_CONFIGURATIONS.get(name, name)] for name in names}
        return cls(**values, **{name: (config["model_options"] or {}).get(name) for name in _OF_NETWORK})
