"""Schedules made shorter or longer as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

_LENGTHS = ("epochs", "iterations", "warmup_epochs")


def scaled(count: int, factor: float) -> int:
    """A number of epochs or steps times a factor: rounded, halves upwards, and at least 1; 0 stays 0."""
    # The decimal digits of the factor are meant: 0.29 * 50 would be 14.499999999999998 in binary.
    product = (Decimal(str(factor)) * count).to_integral_value(ROUND_HALF_UP)
    return max(1, int(product)) if count else 0


def scaled_milestones(milestones: Iterable[int], factor: float) -> tuple[int, ...]:
    """Rising milestones times a factor, each after the one before; where all cannot fit, the last lie beyond the end.

    Every drop of the rate keeps its place in the order, so that a shortened run never drops the rate twice at once.
    """
    made: list[int] = []
    for milestone in milestones:
        made.append(max(scaled(milestone, factor), made[-1] + 1 if made else 1))
    return tuple(made)


def scaled_lengths(values: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """The settings of a recipe with everything that is counted in epochs or steps of the whole run times a factor.

    Args:
        values: Settings by name.
        factor: The factor, above 0.

    Returns:
        The settings that differ: ``epochs``, ``iterations``, ``warmup_epochs`` and ``milestones``, where they are set.
        What is a share of the run, such as ``rise``, or counted in steps whatever its length, such as a decay, stays.
    """
    lengths = {name: scaled(values[name], factor) for name in _LENGTHS if values.get(name) is not None}
    milestones = values.get("milestones")
    return {**lengths, **({"milestones": scaled_milestones(milestones, factor)} if milestones else {})}
