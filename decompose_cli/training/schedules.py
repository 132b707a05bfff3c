"""Learning rates, and momentum, as functions of the number of steps made."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from decompose_cli.training.settings import Settings


def make_schedule(
    optimizer: Optimizer, settings: Settings, *, steps_per_epoch: int, total_steps: int, first_step: int = 0
) -> LRScheduler:
    """Make a schedule that is to be stepped after every step of the optimizer.

    Args:
        optimizer: An optimizer with the rate ``settings.lr``.
        settings: Settings, which name the schedule.
        steps_per_epoch: Steps in a pass over the training images.
        total_steps: Steps of the whole run.
        first_step: Steps that count as made already.
    """
    schedule = _from_the_beginning(optimizer, settings, steps_per_epoch, total_steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that no step has been made before
        for _ in range(first_step):
            schedule.step()
    return schedule


def _from_the_beginning(
    optimizer: Optimizer, settings: Settings, steps_per_epoch: int, total_steps: int
) -> LRScheduler:
    if settings.schedule == "one-cycle":
        low, high = settings.cycle_momentum or (settings.momentum, settings.momentum)
        return OneCycleLR(
            optimizer,
            settings.lr,
            total_steps=total_steps,
            # Torch takes a rise of one step for one of length zero, and would divide by it.
            pct_start=settings.rise * (1 + 1e-9) if settings.rise * total_steps == 1 else settings.rise,
            anneal_strategy=settings.anneal,
            cycle_momentum=settings.cycle_momentum is not None,
            base_momentum=low,
            max_momentum=high,
            div_factor=settings.start_divisor,
            final_div_factor=settings.end_divisor / settings.start_divisor,
        )
    return LambdaLR(optimizer, rate_factor(settings, steps_per_epoch=steps_per_epoch, total_steps=total_steps))


def rate_factor(settings: Settings, *, steps_per_epoch: int, total_steps: int) -> Callable[[int], float]:
    """The factor of the rate after so many steps: constant, steps or cosine, and the warm-up before them."""
    unit = 1 if settings.iterations is not None else steps_per_epoch
    drops = [milestone * unit for milestone in settings.milestones]
    warmup_steps = settings.warmup_epochs * steps_per_epoch
    warmup = (settings.warmup_lr or settings.lr) / settings.lr

    def factor(step: int) -> float:
        if step < warmup_steps:
            return warmup
        if settings.schedule == "steps":
            # A product, not a power: gamma ** 2 would differ from multiplying twice in the last bit.
            return math.prod(settings.gamma for drop in drops if step >= drop)
        if settings.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * step / total_steps))
        return 1.0

    return factor
