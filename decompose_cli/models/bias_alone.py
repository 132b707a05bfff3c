"""Classes that use no feature: their logit is their bias, whatever the image."""

from __future__ import annotations

from collections.abc import Iterable, Sized

from decompose_cli.errors import first_few
from decompose_cli.messages import note


def say_bias_alone(rows: Iterable[Sized], source: str) -> None:
    """Say which classes of an index set or a decomposed head have their bias alone, if any do.

    Args:
        rows: Per class the features that it uses.
        source: The file, as it was given.
    """
    sizes = list(map(len, rows))
    empty = [number for number, size in enumerate(sizes) if size == 0]
    if empty:
        verb, whose = ("has", "its") if len(empty) == 1 else ("have", "their")
        which = first_few(empty)
        note(f"{source}: {len(empty)} of {len(sizes)} classes ({which}) {verb} {whose} bias alone, no feature.")
