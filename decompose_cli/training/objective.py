"""What a step minimises, with which optimizers, and what it counts on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decompose_cli.errors import param
from decompose_cli.models.logits import logits_of
from decompose_cli.training.records import GateScore
from decompose_cli.training.settings import Settings


@dataclass(frozen=True)
class Share:
    """Parameters that are trained alike.

    Attributes:
        settings: Settings of their optimizer and its schedule.
        parameters: At least one parameter.
        every: n; the parameters change in every n-th step, and gradients of other steps are discarded.
    """

    settings: Settings
    parameters: Sequence[nn.Parameter]
    every: int = 1


class Objective:
    """Cross-entropy of the logits, all parameters trained alike; other objectives are subclasses.

    Args:
        label_smoothing: alpha: the target is 1 - alpha for the class, plus alpha / C for each of the C classes.
    """

    counted = 0
    """Length of :meth:`counts`."""
    rate_options = param("lr")
    """The options of the rates that should be smaller where the loss is not finite."""
    columns: tuple[str, ...] = ()
    """Further columns of the table that grows by a row an epoch."""

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def shares(self, module: nn.Module, settings: Settings, steps_per_epoch: int) -> list[Share]:
        """The parameters in shares that are trained alike; the table shows the learning rate of the first share."""
        return [Share(settings, [parameter for parameter in module.parameters() if parameter.requires_grad])]

    def forward(self, model: Callable[[Tensor], Any], images: Tensor) -> Any:
        """The output of the network in training mode, with all that the losses need."""
        return model(images)

    def read(self, module: nn.Module, images: Tensor) -> Any:
        """The output of the network in evaluation mode, as detailed as in training."""
        return module(images)

    def logits(self, output: Any) -> Tensor:
        """The class scores (N, C) in an output."""
        return logits_of(output, in_training=True)

    def losses(self, output: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The loss that is minimised, and the cross-entropy that is shown; in nats, summed over the images.

        Args:
            output: Output of the network in training mode.
            targets: Class numbers (N,) or shares (N, C).
        """
        loss = F.cross_entropy(
            self.logits(output).float(), targets, reduction="sum", label_smoothing=self.label_smoothing
        )
        return loss, loss

    def counts(self, output: Any, targets: Tensor) -> Tensor:
        """Further sums over the images, (counted,).

        Args:
            output: Output of the network.
            targets: Class numbers (N,) or shares (N, C).
        """
        return torch.zeros(0, device=targets.device)

    def diversity(self, counts: Sequence[float], images: int) -> float | None:
        """The mean diversity of maps that sums over so many images of a training pass make; None if not looked at."""
        return None

    def gate_scores(self, counts: Sequence[float], images: int) -> list[GateScore]:
        """The scores of gates that sums of :meth:`counts` over so many images make."""
        return []
