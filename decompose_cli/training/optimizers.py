"""Making and stepping optimizers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.amp import GradScaler
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from decompose_cli.training.settings import Settings


@dataclass(frozen=True)
class Part:
    """Parameters with an optimizer and a schedule of their own, stepped in every n-th step of the run."""

    optimizer: Optimizer
    schedule: LRScheduler
    every: int = 1

    def step_schedule(self) -> None:
        """Step the schedule once for a step of the run, whether or not the optimizer made one."""
        if self.every == 1:
            self.schedule.step()
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns that the optimizer has not made a step yet
            self.schedule.step()


def make_optimizer(settings: Settings, parameters: Sequence[nn.Parameter]) -> Optimizer:
    """Make the optimizer of the settings for parameters that are on their device already."""
    kinds = {parameter.device.type for parameter in parameters}
    # Scaled gradients cannot be clipped before a fused optimizer, which unscales them itself.
    is_real = all(parameter.is_floating_point() for parameter in parameters)
    fused = is_real and kinds <= {"cpu", "cuda"} and not (settings.precision == "16" and settings.clip_norm is not None)
    if settings.optimizer == "sgd":
        return SGD(
            parameters,
            settings.lr,
            settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.nesterov,
            fused=fused,
        )
    kind = AdamW if settings.optimizer == "adamw" else Adam
    return kind(parameters, settings.lr, weight_decay=settings.weight_decay, fused=fused)


def step_together(optimizers: Sequence[Optimizer], scaler: GradScaler | None) -> None:
    """Step optimizers whose gradients are of one loss, scaled by ``scaler`` if there is one.

    As torch has it: each optimizer steps, unless its own gradients are not finite, and then the scale changes once.
    Were it to change between two optimizers, the second would divide its gradients by another scale than theirs. An
    optimizer none of whose parameters has a gradient has no step to make, and a scaler would not take it.
    """
    optimizers = [one for one in optimizers if _has_gradients(one)]
    for optimizer in optimizers:
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
    if scaler is not None and optimizers:
        scaler.update()


def _has_gradients(optimizer: Optimizer) -> bool:
    return any(value.grad is not None for group in optimizer.param_groups for value in group["params"])
