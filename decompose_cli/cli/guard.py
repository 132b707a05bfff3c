"""What goes wrong while a command runs: errors become a sentence and an exit code, signals unwind the stack."""

from __future__ import annotations

import errno
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

import typer

from decompose_cli.cli import stdout
from decompose_cli.cli.console import Terminal
from decompose_cli.errors import DecomposeError, InputError
from decompose_cli.printable import printable_lines
from decompose_cli.processes.lost import LOST


def show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show a traceback on stderr; what it quotes may come from anywhere. For ``sys.excepthook``."""
    sys.stderr.write(printable_lines("".join(traceback.format_exception(kind, error, trace))))


@contextmanager
def expected_errors(terminal: Terminal, *, debug: bool) -> Iterator[None]:
    """Show an error as one sentence, with the right exit code; its traceback only with ``--debug``."""
    try:
        with _termination_as_interrupt():
            yield
    except DecomposeError as error:
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
        if _comes_from_interrupt(error):
            raise _interrupted(terminal) from None
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:  # whichever option names it
            terminal.error(InputError(f"{error.filename} cannot be a path: {error.strerror}."))
            raise typer.Exit(InputError.exit_code) from error
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

    # A signal that is ignored (such as the terminal's interrupt, by jobs in the background) stays ignored.
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}
    for number in handlers:
        signal.signal(number, remember)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if arrived:
            raise KeyboardInterrupt


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Let SIGTERM unwind the stack as Ctrl-C does, so that temporary files are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
