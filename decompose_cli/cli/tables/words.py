"""Phrases that several tables share."""

from __future__ import annotations


def p_value(p: float) -> str:
    """A p-value with its sign, as "= 0.0123"."""
    return "< 0.0001" if p < 1e-4 else f"= {p:.4f}"


def label(name: str, order: str, *, has_gates: bool) -> str:
    """The name of a set for people to read; if it was made of gates, with their order, which changes everything."""
    return f"{name} ({order} gates)" if has_gates else name
