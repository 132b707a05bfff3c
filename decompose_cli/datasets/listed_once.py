"""Remember within a command what folders hold, so that each is looked through once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

_Value = TypeVar("_Value")
Listings = dict[tuple[str, str, str], Any]
"""What was found, by what was looked for, the absolute path of the folder and the path as it was given. It can be
pickled: another process that works on the same folders takes it over with ``update``."""

_listings: ContextVar[Listings | None] = ContextVar("decompose_listings", default=None)


@contextmanager
def listed_once() -> Iterator[Listings]:
    """Within the block a folder is listed once, and what it holds is taken to stay.

    Without it nothing is remembered, so that a program which runs for long sees files that have changed. Blocks within
    a block are part of it.
    """
    known = _listings.get()
    if known is not None:
        yield known
        return
    known = {}
    token = _listings.set(known)
    try:
        yield known
    finally:
        _listings.reset(token)


def once(what: str, folder: Path, look: Callable[[], _Value]) -> _Value:
    """What ``look`` finds in a folder, or what it found before within the block of :func:`listed_once`."""
    known = _listings.get()
    if known is None:
        return look()
    key = (what, os.path.abspath(folder), str(folder))  # noqa: PTH100 - Path.absolute keeps "..", as in "a/../b"
    if key not in known:
        known[key] = look()
    found: _Value = known[key]
    return found
