"""The learning-rate range test of Smith (arXiv 1506.01186): raise the rate every step and watch the loss.

At rates that are too low the loss stays, then it falls, and at rates that are too high it rises again. This module has
the parts that need no network: which rates to try, when to stop, and what the losses say.

Example:
    >>> rates, losses = ramp(1e-6, 10, 100), []
    >>> for rate in rates:
    ...     losses.append(train_one_step(rate))
    ...     if diverged(losses):
    ...         break
    >>> suggest(rates[: len(losses)], losses).rate
    0.18
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from decompose_cli.errors import DecomposeError, InputError, param

FEWEST = 20  # losses that a suggestion needs
MOST_STEPS = 1_000_000
BETA = 0.8


@dataclass(frozen=True)
class Suggestion:
    """Learning rates read from a range test.

    ``steepest`` is the rate to take. For a small network with batch norm on 8x8 digits (20 seeds, 100 steps of batch
    64) it was 0.19 for SGD with momentum and 0.027 for Adam, where short trainings did best between 0.1 and 1 and
    between 0.01 and 0.1. A tenth of the rate at the minimum was 0.06 and 0.009, below both. Neither rate is surer than
    the other: both vary by a tenth of a decade between seeds.

    Attributes:
        steepest: The rate at which the loss falls most for the same factor in the rate.
        minimum_tenth: A tenth of the rate at which the loss is lowest.
        still_falling: Whether the loss is lowest at the end of the range, which is then too low to tell.
    """

    steepest: float
    minimum_tenth: float
    still_falling: bool

    @property
    def rate(self) -> float:
        """The suggestion: the rate of the steepest descent."""
        return self.steepest


def ramp(lowest: float, highest: float, steps: int) -> list[float]:
    """Rates that grow by one factor each step: ``lowest * (highest / lowest) ** (i / (steps - 1))``.

    Raises:
        InputError: The rates are not positive, finite and ascending, the steps are too few for a suggestion or too
            many, or there are not so many rates.
    """
    if not 0 < lowest < highest < math.inf:
        raise InputError(
            f"A range of learning rates goes from a positive one to a higher one, not {lowest} to {highest}."
        )
    if steps < FEWEST:
        raise InputError(f"A range test needs at least {FEWEST} steps, not {steps}.")
    if steps > MOST_STEPS:
        raise InputError(f"A range test has at most {MOST_STEPS:,} steps, not {steps:,}.")
    start, span = math.log(lowest), math.log(highest) - math.log(lowest)
    inner = [math.exp(start + span * i / (steps - 1)) for i in range(1, steps - 1)]
    rates = [lowest, *inner, highest]
    if any(after <= before for before, after in pairwise(rates)):
        raise InputError(
            f"Between {lowest} and {highest} there are no {steps} different learning rates.",
            hint=f"Widen the range ({param('lowest')}, {param('highest')}), or take fewer steps ({param('steps')}).",
        )
    return rates


def smooth(losses: Sequence[float], beta: float = BETA) -> list[float]:
    """Exponential moving average with bias correction: ``s_t = sum_i beta^i l_{t-i} / sum_i beta^i``, i = 0..t.

    The usual beta of 0.98 trails by beta / (1 - beta) = 49 steps, half of a ramp of 100. A beta of 0.8 trails by 4
    steps, and the noise of single batches still shrinks to sqrt((1 - beta) / (1 + beta)) = a third.
    """
    averages, total, weight = [], 0.0, 0.0
    for loss in losses:
        total = beta * total + loss
        weight = beta * weight + 1
        averages.append(total / weight)
    return averages


def diverged(losses: Sequence[float], factor: float = 4) -> bool:
    """Whether a loss is not finite, or the average of the last ones has exceeded ``factor`` times its lowest so far."""
    return _divergence(losses, factor) is not None


def suggest(rates: Sequence[float], losses: Sequence[float]) -> Suggestion:
    """Read a learning rate from a range test.

    The slope is that of the averaged loss over log(rate), a central difference; its lowest value is looked for on the
    way to the lowest average, without the first tenth and the last twentieth of the steps. As an average tells of
    losses that are some steps old, the suggested rate is that of so many steps before. In longer ramps the average runs
    over more steps, always a twentieth of them, so that the noise in the slope does not grow. Losses from where they
    :func:`diverged` on play no part.

    Args:
        rates: The rate of each step, ascending.
        losses: The loss of the batch before each step.

    Raises:
        InputError: There are too few losses.
        DecomposeError: Too few losses are left before they diverge, or they never fall by more than their noise.
        ValueError: There is not one rate for each loss.
    """
    if len(rates) != len(losses):
        raise ValueError(f"{len(rates)} rates and {len(losses)} losses")
    end = _divergence(losses, factor=4)
    if end is None and len(losses) < FEWEST:
        raise InputError(f"{len(losses)} losses are too few to suggest a learning rate; {FEWEST} are needed.")
    losses = losses if end is None else losses[:end]
    if len(losses) < FEWEST:
        raise DecomposeError(
            f"The loss diverged after {len(losses)} steps, at a learning rate of {rates[len(losses)]:.2g}, too "
            "soon to suggest one.",
            hint=f"Begin the range at a lower rate ({param('lowest')}), or take more steps ({param('steps')}).",
        )
    beta = max(0.5, 1 - (1 - BETA) * 100 / len(losses))
    # A twentieth of the losses is dropped, as the first steps from random weights fall at any rate, and one more passes
    # until an average is one of several losses. At the other end the loss may be on its way into divergence.
    part = len(losses) // 20
    averages, logs = smooth(losses[part:], beta), [math.log(rate) for rate in rates[part:]]
    first, last = part, len(averages) - 1 - part
    lowest = min(range(first, last + 1), key=averages.__getitem__)
    _refuse_without_fall(losses[part:], averages[first] - averages[lowest], rates)
    slopes = {t: (averages[t + 1] - averages[t - 1]) / (logs[t + 1] - logs[t - 1]) for t in range(first, lowest + 1)}
    steepest = min(slopes, key=slopes.__getitem__)
    return Suggestion(
        steepest=_rate_at(steepest - _age(steepest, beta), logs),
        minimum_tenth=_rate_at(lowest - _age(lowest, beta), logs) / 10,
        still_falling=lowest == last and end is None,
    )


def _divergence(losses: Sequence[float], factor: float) -> int | None:
    """The first step at which the losses had diverged; None if they never did."""
    best = math.inf
    for t, average in enumerate(smooth(losses)):
        if not math.isfinite(average) or average > factor * best:
            return t
        best = min(best, average)
    return None


def _refuse_without_fall(losses: Sequence[float], fall: float, rates: Sequence[float]) -> None:
    """Refuse losses that fall no more than noise: it makes an average fall too, but hardly by two standard deviations.

    The standard deviation of normal noise is the median of ``|l_{t+1} - l_t|`` times 1 / (0.6745 sqrt(2)) = 1.05.
    """
    # A trend hardly counts in the median of the changes from step to step, and neither does the end of the range.
    noise = median(abs(b - a) for a, b in pairwise(losses)) * 1.05
    if fall <= max(2 * noise, 1e-9 * abs(losses[0])):  # the latter for rounding
        raise DecomposeError(
            f"The loss did not fall by more than its noise at learning rates from {rates[0]:.2g} to {rates[-1]:.2g}.",
            hint="Widen the range, take more steps, or larger batches.",
        )


def _age(step: int, beta: float) -> float:
    """The mean age in steps of the losses that :func:`smooth` mixes: ``sum_i i beta^i / sum_i beta^i``."""
    left = beta ** (step + 1)
    return beta / (1 - beta) - (step + 1) * left / (1 - left)


def _rate_at(step: float, logs: Sequence[float]) -> float:
    """The rate between two steps, interpolated in its logarithm."""
    before = min(int(step), len(logs) - 2)
    return math.exp(logs[before] + (step - before) * (logs[before + 1] - logs[before]))
