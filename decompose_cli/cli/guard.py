"""What goes wrong while a command runs: errors become a sentence and an exit code, signals unwind the stack."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

import typer

from decompose_cli.cli import stdout
from decompose_cli.cli.console import Terminal
from decompose_cli.errors import DecomposeError
from decompose_cli.printable import printable_lines
from decompose_cli.processes.lost import LOST
from decompose_cli.processes.signals import heard
from decompose_cli.storage.system_errors import is_out_of_memory, memory_error, system_error

_SECONDS_BETWEEN_LOOKS, _MOST_SECONDS_OF_AN_IMPORT = 0.05, 10.0


def show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show a traceback on stderr; what it quotes may come from anywhere. For ``sys.excepthook``."""
    sys.stderr.write(printable_lines("".join(traceback.format_exception(kind, error, trace))))


@contextmanager
def expected_errors(terminal: Terminal, *, debug: bool) -> Iterator[None]:
    """Show an error as one sentence, with the right exit code; its traceback only with ``--debug``."""
    interrupts = _Interrupts()
    try:
        with interrupts.heard():
            yield
    except DecomposeError as error:
        if interrupts.have_come and isinstance(error.__cause__, ImportError):
            raise _interrupted(terminal) from None
        if debug:
            show_traceback(type(error), error, error.__traceback__)
        terminal.error(error)
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt:
        raise _interrupted(terminal) from None
    except BrokenPipeError:
        stdout.discard()  # the reader has closed the pipe
        raise typer.Exit(1) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if debug:
            raise
        if interrupts.have_come or _comes_from_interrupt(error):  # as libraries may make of one
            raise _interrupted(terminal) from None
        if is_out_of_memory(error) and getattr(error, "filename", None) is None:
            terminal.error(memory_error(error))
            raise typer.Exit(1) from error
        if isinstance(error, OSError) and error.strerror:
            expected = system_error(error)
            terminal.error(expected)
            raise typer.Exit(expected.exit_code) from error
        reason = str(error).strip().splitlines()
        sentence = f"Something unforeseen went wrong: {type(error).__name__}{': ' + reason[0] if reason else ''}"
        terminal.error(DecomposeError(sentence, hint="Add --debug to see where; please report it."))
        raise typer.Exit(1) from error


def _interrupted(terminal: Terminal) -> typer.Exit:
    if LOST.is_set():
        sentence = "A process of this command has ended before its work was done; memory may have run out."
        hint = "No file was left half-written, and features that were done are kept."
        terminal.error(DecomposeError(sentence, hint=hint))
        return typer.Exit(1)
    terminal.error(DecomposeError("Interrupted; no file was left half-written."))
    return typer.Exit(130)


def _comes_from_interrupt(error: BaseException | None) -> bool:
    """Whether an interrupt was made into another error, as Python does where it comes while a class is defined."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Interrupt only when the block is over: an interrupt while torch is imported is lost in it, or breaks it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []

    def remember(number: int, _: FrameType | None) -> None:
        arrived.append(number)

    handlers = {number: signal.getsignal(number) for number in heard()}
    for number in handlers:
        signal.signal(number, remember)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if arrived:
            raise KeyboardInterrupt


class _Interrupts:
    """Lets every signal that asks the program to end unwind the stack, so that temporary files are removed.

    One that comes during an import waits for its end, as it would be lost there or leave half a module behind; a
    second one does not wait.

    Attributes:
        have_come: Whether a signal has come.
    """

    def __init__(self) -> None:
        self.have_come = False
        self._is_waiting = self._is_again = self._is_over = False
        self._late = 0.0

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Listen while the block runs."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {number: signal.signal(number, self._hear) for number in heard()}
        try:
            yield
        finally:
            self._is_over = True
            for number, handler in handlers.items():
                signal.signal(number, handler)
        if self._is_waiting:
            raise KeyboardInterrupt

    def _hear(self, number: int, frame: FrameType | None) -> None:
        may_wait, self._is_again = self._is_again or not self.have_come, False
        if not self.have_come:
            self.have_come, self._late = True, time.monotonic() + _MOST_SECONDS_OF_AN_IMPORT
        self._is_waiting = may_wait and time.monotonic() < self._late and _is_importing(frame)
        if not self._is_waiting:
            raise KeyboardInterrupt
        timer = threading.Timer(_SECONDS_BETWEEN_LOOKS, self._look_again, [number])
        timer.daemon = True
        timer.start()

    def _look_again(self, number: int) -> None:
        if self._is_waiting and not self._is_over:
            self._is_again = True
            os.kill(os.getpid(), number)  # which wakes the main thread, whatever it waits for


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib._bootstrap"):
        frame = frame.f_back
    return frame is not None
