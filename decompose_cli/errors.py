"""Expected failures: one sentence for the person at the terminal, and the exit code that goes with it."""

from __future__ import annotations

from typing import TypeVar

Choice = TypeVar("Choice", bound=str)


class DecomposeError(Exception):
    """The work failed for a reason that can be explained.

    Args:
        message: One sentence saying what is wrong and where.
        hint: What to do next; shown on a line of its own.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def first_line(error: BaseException) -> str:
    """What an exception says, cut to its first line; its kind if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


class InputError(DecomposeError):
    """Something the user gave (an option, a file, a folder) cannot be used."""

    exit_code = 2


class UnsafeFileError(InputError):
    """A checkpoint that could only be read by executing code from it."""


class NotFiniteError(DecomposeError):
    """Numbers that are to be learned from are NaN or infinite."""


class StoppedError(DecomposeError):
    """A signal came, and what had been done by then is saved."""

    exit_code = 130


class DownloadError(DecomposeError):
    """A file could not be fetched, or what came is not what was expected."""


def one_of(text: str, choices: tuple[Choice, ...], option: str) -> Choice:
    """Check a word against those that an option takes.

    Raises:
        InputError: It is none of them.
    """
    for choice in choices:
        if text == choice:
            return choice
    raise InputError(f"{option} {text!r} is unknown; choose {', '.join(choices)}.")
