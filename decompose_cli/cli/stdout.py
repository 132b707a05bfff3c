"""Stdout is for results: what anything else prints, such as a network of the user's, goes to stderr.

Stderr may go away, with a terminal or a full disk; the work goes on then, and the exit code says it.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from typing_extensions import override

_kept: TextIO | None = None  # stdout, while a command runs


_has_lost = False  # something that was written to stderr
_was_closed = False  # stdout, when the program began


class _Patient(io.FileIO):
    """A descriptor that takes whatever is written to it, also where nobody reads it and no disk keeps it."""

    @override
    def write(self, data: Any, /) -> int:
        global _has_lost
        try:
            if (count := super().write(data)) is not None:
                return count
        except OSError:
            pass
        _has_lost = True
        return memoryview(data).nbytes


def has_lost() -> bool:
    """Whether something that was to be shown on stderr could not be."""
    return _has_lost


def was_closed() -> bool:
    """Whether the program was started without a stdout, so that nobody reads what is printed."""
    return _was_closed


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
    global _was_closed
    _was_closed = sys.stdout is None
    sys.stdout = sys.stdout or _nowhere()  # closed streams are None; what is opened next gets their descriptors
    sys.stderr = sys.stderr or _nowhere()
    stderr = sys.stderr  # if nobody had it, its descriptor would be closed
    if _number_of(stderr) == 2:
        stderr.flush()
        raw = io.BufferedWriter(_Patient(2, "w", closefd=False))
        how = {"encoding": stderr.encoding, "errors": stderr.errors}
        sys.stderr = io.TextIOWrapper(raw, **how, line_buffering=True, write_through=True)
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
