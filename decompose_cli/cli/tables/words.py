"""How tables say what all of them say."""

from __future__ import annotations


def p_value(p: float) -> str:
    """With its sign, as "= 0.0123"."""
    return "< 0.0001" if p < 1e-4 else f"= {p:.4f}"


def label(name: str, order: str) -> str:
    """What to call a set where people read it: whether csg is the highest gates or the lowest changes everything."""
    return f"csg ({order} gates)" if name == "csg" else name
