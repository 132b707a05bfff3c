"""Phrases that several tables share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from decompose_cli.printable import counted

if TYPE_CHECKING:
    from decompose_cli.decomposition.refitting import Refitting
    from decompose_cli.decomposition.result_types import Paired


def p_value(p: float) -> str:
    """A p-value with its sign, as "= 0.0123"."""
    return "< 0.0001" if p < 1e-4 else f"= {p:.4f}"


def label(name: str, order: str, *, has_gates: bool) -> str:
    """The name of a set for people to read; if it was made of gates, with their order, which changes everything."""
    return f"{name} ({order} gates)" if has_gates else name


def said_of_fits(refitting: Refitting) -> str:
    """On what weights were fitted, at which strength of the penalty, and what chose it."""
    chosen = refitting.chosen_on
    how = "as given" if chosen is None else f"chosen on {counted(chosen.images, 'image')} of {chosen.split}"
    return (
        f"Heads were fitted on {counted(refitting.fitted, 'training image')}, with a penalty of strength "
        f"{refitting.l2:.2g}, "
        f"{how}; the images that are counted here chose nothing."
    )


def said_of_worst(found: Paired, names: Sequence[str], what: str = "") -> str:
    """Which class loses most, how much, and how sure that is.

    Args:
        found: The comparison.
        names: Names of the classes.
        what: The heads that are compared, to stand before it.
    """
    worst, start = found.worst_class, f"{what}: " if what else ""
    if worst is None:
        return f"{start}No class loses accuracy."
    low, high = worst.ci95
    return (
        f"{start}Worst class: {names[worst.number]}, {worst.before:,} to {worst.after:,} of {worst.images:,} right, "
        f"{worst.points:+.2f} points, 95% interval {low:+.2f} to {high:+.2f} over all classes together"
    )
