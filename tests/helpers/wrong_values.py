"""Every kind of place in something that was read, one after the other, with another kind of value, or without any."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor

MISSING = object()
Place = tuple[Any, ...]


def nested(depth: int) -> Any:
    """Lists in lists."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


PLAIN: list[Any] = [MISSING, None, "text", -1, 2**62, math.nan, [], {}, nested(3)]
"""What may stand in the place of a value."""


def places(value: Any) -> Iterator[Place]:
    """Where values are: those that are alike, such as one tensor or record of many, once."""
    yield ()
    parts: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        parts = list(value.items())
    elif isinstance(value, list | tuple):
        parts = list(enumerate(value[:1]))
    are_numbered = all(isinstance(name, int) or str(name).isdigit() for name, _ in parts)
    if parts and are_numbered and all(isinstance(part, Tensor | dict | list) for _, part in parts):
        parts = parts[:1]
    if len(parts) > 3 and all(isinstance(part, Tensor) for _, part in parts):
        parts = parts[:1]
    for name, part in parts:
        for inner in places(part):
            yield (name, *inner)


def changed(content: Any, place: Place, value: Any) -> Any:
    """The content with another value at one place, or without any."""
    if not place:
        return value
    first, *rest = place
    other = copy.copy(content) if isinstance(content, dict) else list(content)
    if value is MISSING and not rest:
        del other[first]
    else:
        other[first] = changed(content[first], tuple(rest), value)
    return other
