"""Optimizers and losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from decompose_cli.training.settings import Settings


@dataclass(frozen=True)
class Part:
    """Parameters with an optimizer and a schedule of their own."""

    optimizer: Optimizer
    schedule: LRScheduler


def make_optimizer(settings: Settings, parameters: Sequence[nn.Parameter]) -> Optimizer:
    """The optimizer of the settings for parameters that are on their device already."""
    kinds = {parameter.device.type for parameter in parameters}
    # Scaled gradients cannot be clipped before a fused optimizer, which unscales them itself.
    fused = kinds <= {"cpu", "cuda"} and not (settings.precision == "16" and settings.clip_norm is not None)
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


def summed_cross_entropy(label_smoothing: float) -> Callable[[Any, Tensor], Tensor]:
    """Cross-entropy in nats, summed over the images, of logits (N, C) with class numbers (N,) or shares (N, C)."""

    def loss(output: Any, targets: Tensor) -> Tensor:
        return F.cross_entropy(output.float(), targets, reduction="sum", label_smoothing=label_smoothing)

    return loss
