"""Training networks with soft gates: what each part learns from, and what is counted of the gates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decompose_cli.errors import InputError, first_few, param
from decompose_cli.models.gate_kinds import GATES
from decompose_cli.models.gated_resnet import Gated, GatedNetwork
from decompose_cli.models.gates import Reading
from decompose_cli.training.gating.settings import GateSettings
from decompose_cli.training.objective import Objective, Share
from decompose_cli.training.records import GATE_BINS, GateScore
from decompose_cli.training.scaling import scaled_milestones
from decompose_cli.training.settings import Settings
from decompose_cli.training.table import gate_columns

_PERIOD = 50
"""Epochs after which ``step50`` divides the rate by ten, of a training that is not scaled."""


class GateObjective(Objective):
    """Cross-entropy, plus lambda times the mean penalty of the gates; gates with a classifier learn from its own loss.

    One forward and one backward pass serve them all: the loss is the sum of the cross-entropies of the network and of
    each gate's classifier, and the gates keep each gradient to its own parameters (see
    :class:`.models.gates.EntropyClassifierGate`).

    Args:
        label_smoothing: Label smoothing of the network's cross-entropy; that of gates is never smoothed.
        network: The network that is trained, or one that it is a copy of.
        gates: How the gates are trained, completed for the gate of the network.
    """

    def __init__(self, label_smoothing: float, network: GatedNetwork, gates: GateSettings) -> None:
        super().__init__(label_smoothing)
        self.kind = GATES[network.gate_name]
        self.gates = gates
        self.units = len(network.gates())
        self.names = [f"gate{end}" for end in self.kind.place.ends]
        if self.kind.has_classifier:
            self.rate_options = f"{param('lr')}, or {param('lr_gate')},"
        self.columns = gate_columns(self.names, classify=self.kind.has_classifier)
        # The counts of each gate: loss, correct, then g of each unit, then the histogram.
        self._means = self.units // len(self.names)
        self.counted = len(self.names) * (2 + self._means + GATE_BINS)

    def shares(self, module: nn.Module, settings: Settings, steps_per_epoch: int) -> list[Share]:
        """All parameters as one share, or the backbone and each gate's classifier as shares of their own."""
        if not self.kind.has_classifier:
            return super().shares(module, settings, steps_per_epoch)
        assert isinstance(module, GatedNetwork)
        of_gates = [list(gate.parameters()) for gate in module.gates()]
        inside = {id(parameter) for parameters in of_gates for parameter in parameters}
        backbone = [parameter for parameter in module.parameters() if id(parameter) not in inside]
        own = classifier_settings(settings, self.gates, steps_per_epoch)
        steps = settings.iterations or steps_per_epoch * (settings.epochs or 1)
        every = self.gates.gate_iters or 1
        if every > steps:
            raise InputError(
                f"{param('gate_iters')} {every} is more than the {steps:,} steps of the run, so the backbone would "
                "never be changed."
            )
        return [Share(settings, backbone, every), *(Share(own, given) for given in of_gates)]

    def read(self, module: nn.Module, images: Tensor) -> Gated:
        """The logits and the readings of the gates."""
        assert isinstance(module, GatedNetwork)
        return module.read(images)

    def logits(self, output: Gated) -> Tensor:
        """The logits of the network."""
        return output.logits

    def losses(self, output: Gated, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of all losses, and the network's cross-entropy."""
        shown, _ = super().losses(output, targets)
        total = shown
        if self.gates.penalty:
            total = total + self.gates.penalty * _penalty(output.readings).sum()
        for reading in output.readings:
            if reading.logits is not None:
                total = total + F.cross_entropy(reading.logits, targets, reduction="sum")
        return total, shown

    def counts(self, output: Gated, targets: Tensor) -> Tensor:
        """For each gate, its summed loss, correct answers, summed g of each unit, and histogram of g."""
        classes = targets if targets.ndim == 1 else targets.argmax(1)
        readings = output.readings
        groups = [[reading] for reading in readings] if len(self.names) > 1 else [list(readings)]
        parts: list[Tensor] = []
        with torch.no_grad():
            for group in groups:
                loss = correct = torch.zeros((), device=targets.device)
                logits = group[0].logits
                if logits is not None:
                    loss = F.cross_entropy(logits, targets, reduction="sum")
                    correct = (logits.argmax(1) == classes).sum()
                elif self.kind.penalty is not None:
                    loss = _penalty(group).sum()
                g = image_gates(group)
                bins = torch.histc(g, GATE_BINS, 0, 1)
                parts += [loss.float()[None], correct.float()[None], g.sum(0), bins]
        return torch.cat(parts)

    def gate_scores(self, counts: Sequence[float], images: int) -> list[GateScore]:
        """The scores that sums of :meth:`counts` make, one for each gate, or one for all units together."""
        scores = []
        for number, name in enumerate(self.names):
            length = self.counted // len(self.names)
            loss, correct, *rest = counts[number * length : (number + 1) * length]
            means = [value / images for value in rest[: self._means]]
            classifies = self.kind.has_classifier
            scores.append(
                GateScore(
                    name=name,
                    loss=loss / images if classifies or self.kind.penalty is not None else None,
                    correct=int(correct) if classifies else None,
                    top1=100 * correct / images if classifies else None,
                    g=sum(means) / len(means),
                    units=means if self.kind.level == "layer" else [],
                    histogram=[int(value) for value in rest[self._means :]],
                )
            )
        return scores


def image_gates(readings: Iterable[Reading]) -> Tensor:
    """g of each image and gate, (N, gates) float32; for gates in single units its mean over channels and positions."""
    return torch.stack(
        [
            reading.g.detach().float().flatten(1).mean(1) if reading.g.ndim > 1 else reading.g.detach().float()
            for reading in readings
        ],
        1,
    )


def _penalty(readings: Sequence[Reading]) -> Tensor:
    """The mean penalty of the gates, (N,)."""
    return torch.stack([reading.penalty for reading in readings if reading.penalty is not None]).mean(0)


def classifier_settings(settings: Settings, gates: GateSettings, steps_per_epoch: int) -> Settings:
    """The optimizer of a gate's classifier: SGD, momentum and weight decay as the backbone, a rate of its own."""
    changed: dict[str, Any] = {
        "optimizer": "sgd",
        "lr": gates.lr_gate,
        "schedule": "constant",
        "milestones": (),
        "warmup_epochs": 0,
        "warmup_lr": None,
    }
    if gates.gate_schedule == "step50":
        unit = 1 if settings.iterations is None else steps_per_epoch
        end = settings.epochs or -(-(settings.iterations or 0) // steps_per_epoch)
        # There are no more drops than epochs, as scaled ones are distinct.
        periods = range(_PERIOD - 1, _PERIOD * end, _PERIOD)
        drops = tuple(epoch * unit for epoch in scaled_milestones(periods, settings.scale_epochs or 1.0) if epoch < end)
        changed |= {"schedule": "steps", "milestones": drops, "gamma": 0.1}
    return settings.model_copy(update=changed)


def said_of_rate(settings: Settings, gates: GateSettings, images: int) -> str | None:
    """When the rate of a gate's classifier drops, if it was asked to; ``images`` are trained on."""
    if gates.gate_schedule != "step50" or images == 0:
        return None
    unit, per_epoch = ("epoch", 1) if settings.iterations is None else ("step", settings.steps_per_epoch(images))
    drops = classifier_settings(settings, gates, per_epoch).milestones
    when = f"is divided by ten after {unit} {first_few(drops)}" if drops else "does not drop before the end"
    return f"The gate's rate of {gates.lr_gate:g} {when}."
