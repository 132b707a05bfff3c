"""How long-running code talks to whoever started it, without knowing about terminals.

Engines and everything below call :func:`note`, :func:`warn` and :func:`track`. The reporter in force decides what
becomes of these calls: the command line installs one that draws on the terminal; the default one sends messages to the
``logging`` module (so a notebook sees warnings, and announcements where logging is configured) and shows no progress.
Parameters in messages stand as :func:`decompose_cli.errors.param`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Protocol

from typing_extensions import override

from decompose_cli.errors import param, shown
from decompose_cli.printable import printable

Advance = Callable[[int], None]
_log = logging.getLogger("decompose_cli")


class EpochTable(Protocol):
    """A table that grows by a row at a time.

    Attributes:
        seconds_between_updates: Time after which another call of :meth:`update` is worth its cost.
    """

    seconds_between_updates: float

    def update(self, cells: Sequence[str]) -> None:
        """Show the present state of the row under way."""

    def add(self, cells: Sequence[str]) -> None:
        """Add a complete row."""


class Reporter(Protocol):
    """Where announcements and progress go."""

    def note(self, message: str) -> None:
        """Say something the user should be able to read, such as what is about to be downloaded."""

    def warn(self, message: str) -> None:
        """Say something that may give a result another meaning than the user expects."""

    def track(self, description: str, total: int | None, unit: str) -> AbstractContextManager[Advance]:
        """Show the progress of a loop; the value of the context is called with the number of units just done."""

    def table(self, columns: Sequence[str]) -> AbstractContextManager[EpochTable]:
        """Show a table that grows."""


Bars = Callable[[str, int | None, str], AbstractContextManager[Advance]]


class LoggingReporter(Reporter):
    """The reporter of programs that have installed none; it shows no progress but by :attr:`bars`."""

    bars: Bars | None = None

    @override
    def note(self, message: str) -> None:
        _log.info(printable(shown(message)))

    @override
    def warn(self, message: str) -> None:
        _log.warning(printable(shown(message)))

    @override
    def track(self, description: str, total: int | None, unit: str) -> AbstractContextManager[Advance]:
        return nullcontext(lambda _: None) if self.bars is None else self.bars(description, total, unit)

    @override
    def table(self, columns: Sequence[str]) -> AbstractContextManager[EpochTable]:
        return nullcontext(_LoggedTable(columns))


class _LoggedTable(EpochTable):
    seconds_between_updates = float("inf")

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns

    @override
    def update(self, cells: Sequence[str]) -> None:
        pass

    @override
    def add(self, cells: Sequence[str]) -> None:
        said = (f"{name} {cell}" for name, cell in zip(self._columns, cells, strict=True) if cell)
        _log.info(printable(", ".join(said)))


_default = LoggingReporter()
_current: ContextVar[Reporter] = ContextVar("decompose_reporter", default=_default)
_kinds: ContextVar[set[str]] = ContextVar("decompose_kinds_of_warnings", default=set())  # noqa: B039 - of the default


def show_bars(bars: Bars | None) -> None:
    """Show the progress of programs that have installed no reporter by ``bars``, or not at all."""
    _default.bars = bars


@contextmanager
def use_reporter(reporter: Reporter) -> Iterator[None]:
    """Send announcements and progress to ``reporter`` inside the ``with`` block."""
    token, kinds = _current.set(reporter), _kinds.set(set())
    try:
        yield
    finally:
        _current.reset(token)
        _kinds.reset(kinds)


def note(message: str) -> None:
    """Announce something through the reporter in force."""
    _current.get().note(message)


def warn(message: str) -> None:
    """Warn through the reporter in force."""
    _current.get().warn(message)


def report_by_logging(_: int) -> None:
    """Let a process that was forked to decode images report by ``logging``; for ``worker_init_fn`` of a loader.

    A terminal's lock that another thread held at that moment is never released in the fork.
    """
    _current.set(_default)


def warn_of_first(kind: str, message: str) -> None:
    """Warn through the reporter in force, unless there was a warning of this kind, such as of another file."""
    if kind not in _kinds.get():
        _kinds.get().add(kind)
        warn(message)


def warn_no_effect(names: Sequence[str], why: str) -> None:
    """Warn, once, of parameters that were given and change nothing; commands that share a script have them all.

    Args:
        names: The parameters.
        why: What follows on "has no effect", such as "with a file of features" or ": no image is looked at".
    """
    *others, last = map(param, names)
    listed = f"{', '.join(others)} and {last}" if others else last
    message = f"{listed} {'have' if others else 'has'} no effect{'' if why.startswith(':') else ' '}{why}."
    warn_of_first(message, message)


def track(description: str, total: int | None = None, unit: str = "images") -> AbstractContextManager[Advance]:
    """Follow a loop through the reporter in force."""
    return _current.get().track(description, total, unit)


def growing_table(columns: Sequence[str]) -> AbstractContextManager[EpochTable]:
    """Show a table that grows by a row at a time through the reporter in force."""
    return _current.get().table(columns)


def clock(seconds: float) -> str:
    """A time as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
