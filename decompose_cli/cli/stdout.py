"""Stdout is for results: what anything else prints, such as a network of the user's, goes to stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

_kept: TextIO | None = None  # stdout, while a command runs


def results() -> TextIO:
    """The stream that results are printed to."""
    return _kept or sys.stdout


@contextmanager
def kept_for_results() -> Iterator[None]:
    """Send what Python code prints in the block to stderr; :func:`results` is stdout."""
    global _kept
    before, _kept = _kept, sys.stdout
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        sys.stdout, _kept = results(), before


@contextmanager
def own_descriptor() -> Iterator[None]:
    """Have stdout on a descriptor that nothing else knows, in the block, which is the life of the program.

    What is written to the usual one, by C code or other processes, goes to stderr, and so does what is printed at exit.
    """
    sys.stdout = sys.stdout or _nowhere()  # closed streams are None; what is opened next gets their descriptors
    sys.stderr = sys.stderr or _nowhere()
    if _number_of(sys.stdout) != 1:
        yield
        return
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)
    os.dup2(2, 1)
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        sys.stdout = sys.stderr


def _number_of(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):  # a stream of another program's
        return None


def discard() -> None:
    """Discard what Python would still write to stdout at exit."""
    global _kept
    nowhere, number = _nowhere(), _number_of(results())
    if number is not None:
        os.dup2(nowhere.fileno(), number)
    if _kept is None:
        sys.stdout = nowhere
    else:
        _kept = nowhere


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w")
