"""How long-running code talks to whoever started it, without knowing about terminals.

Engines and everything below call :func:`note`, :func:`warn` and :func:`track`. What becomes of that is decided by the
reporter in force: the command line installs one that draws on the terminal; by default messages go to the ``logging``
module (so a notebook sees warnings, and announcements where logging is configured) and progress is not shown.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Protocol

from typing_extensions import override

Advance = Callable[[int], None]
_log = logging.getLogger("decompose_cli")


class Reporter(Protocol):
    """Where announcements and progress go."""

    def note(self, message: str) -> None:
        """Say something the user should be able to read, such as what is about to be downloaded."""

    def warn(self, message: str) -> None:
        """Say something that may make a result mean other than what the user thinks."""

    def track(self, description: str, total: int | None, unit: str) -> AbstractContextManager[Advance]:
        """Show the progress of a loop; the value of the context is called with the number of units just done."""


class LoggingReporter(Reporter):
    """The reporter of programs that have installed none."""

    @override
    def note(self, message: str) -> None:
        _log.info(message)

    @override
    def warn(self, message: str) -> None:
        _log.warning(message)

    @override
    def track(self, description: str, total: int | None, unit: str) -> AbstractContextManager[Advance]:
        return nullcontext(lambda _: None)


_default = LoggingReporter()
_current: ContextVar[Reporter] = ContextVar("decompose_reporter", default=_default)


@contextmanager
def use_reporter(reporter: Reporter) -> Iterator[None]:
    """Send announcements and progress to ``reporter`` inside the ``with`` block."""
    token = _current.set(reporter)
    try:
        yield
    finally:
        _current.reset(token)


def note(message: str) -> None:
    """Announce something through the reporter in force."""
    _current.get().note(message)


def warn(message: str) -> None:
    """Warn through the reporter in force."""
    _current.get().warn(message)


def track(description: str, total: int | None = None, unit: str = "images") -> AbstractContextManager[Advance]:
    """Follow a loop through the reporter in force."""
    return _current.get().track(description, total, unit)
