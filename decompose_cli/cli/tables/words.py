"""Phrases that several tables share."""

from __future__ import annotations


def p_value(p: float) -> str:
    """A p-value with its sign, as "= 0.0123"."""
    return "< 0.0001" if p < 1e-4 else f"= {p:.4f}"


def label(name: str, order: str) -> str:
    """The name of a set for people to read: csg with its order, which changes everything."""
    return f"csg ({order} gates)" if name == "csg" else name
