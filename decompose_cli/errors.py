"""Expected failures: one sentence for the person at the terminal, and the exit code that goes with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TypeVar

from decompose_cli.printable import printable

Choice = TypeVar("Choice", bound=str)


_BEFORE, _AFTER = "\ue000", "\ue001"
_PARAMETER = re.compile(f"{_BEFORE}([^{_AFTER}]*){_AFTER}")


def param(name: str) -> str:
    """Mark the name of a parameter inside a sentence: Python shows the name, the command line its flag.

    >>> error = InputError(f"{param('batch_size')} 0 is not at least 1.")
    >>> error.message
    'batch_size 0 is not at least 1.'
    >>> shown(error.sentence, lambda name: f"--{name.replace('_', '-')}")
    '--batch-size 0 is not at least 1.'
    """
    return f"{_BEFORE}{name}{_AFTER}"


def shown(sentence: str, as_text: Callable[[str], str] = str) -> str:
    """Return a sentence in which each :func:`param` is replaced by the text that ``as_text`` makes of its name."""
    return _PARAMETER.sub(lambda match: as_text(match[1]), sentence)


class DecomposeError(Exception):
    """The work failed for a reason that can be explained.

    Args:
        sentence: What is wrong and where, in one sentence; parameters in it stand as :func:`param`.
        hint: What to do next; shown on a line of its own.

    Attributes:
        sentence: The sentence with its parameters still marked.
        advice: The hint with its parameters still marked, or None.
        message: The sentence with parameters by their names, as it may be shown.
        hint: The hint with parameters by their names, as it may be shown, or None.
    """

    exit_code = 1

    def __init__(self, sentence: str, *, hint: str | None = None) -> None:
        self.sentence, self.advice = sentence, hint
        self.message, self.hint = printable(shown(sentence)), None if hint is None else printable(shown(hint))
        super().__init__(self.message)


def first_few(names: Iterable[object], most: int = 3) -> str:
    """The first names of a list in a sentence, with dots after them where more are left out.

    >>> first_few(["cat", "dog", "ship"]), first_few(range(4))
    ('cat, dog, ship', '0, 1, 2, ...')
    """
    every = list(map(str, names))
    return ", ".join(every[:most]) + (", ..." if len(every) > most else "")


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, or the name of its class if it says nothing."""
    said = error.sentence if isinstance(error, DecomposeError) else str(error)
    lines = said.strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def raised(error: BaseException) -> str:
    """The class of an exception of somebody else's code, and the first line of what it says.

    >>> raised(KeyError("layer9")), raised(ValueError())
    ("KeyError: 'layer9'", 'ValueError')
    """
    kind, said = type(error).__name__, first_line(error)
    return kind if said == kind else f"{kind}: {said}"


def shortened(text: str, most: int = 60) -> str:
    """A text as it is quoted in a sentence, with dots for what is too long to be read.

    >>> shortened("a label"), shortened("7" * 400, 5)
    ('a label', '77777...')
    """
    return text if len(text) <= most else f"{text[:most]}..."


class InputError(DecomposeError):
    """Something the user gave (an option, a file, a folder) cannot be used."""

    exit_code = 2


class UnsafeFileError(InputError):
    """A checkpoint could only be read by executing code from it."""


class NotFiniteError(DecomposeError):
    """Numbers that the network should learn from are NaN or infinite."""


class StoppedError(DecomposeError):
    """A signal came, and what had been done by then is saved."""

    exit_code = 130


class DownloadError(DecomposeError):
    """A file could not be fetched, or what came is not what was expected."""


def one_of(text: str, choices: tuple[Choice, ...], parameter: str, *, hint: str | None = None) -> Choice:
    """Check a word against those that a parameter takes.

    Raises:
        InputError: The word is none of them.
    """
    for choice in choices:
        if text == choice:
            return choice
    raise InputError(f"{param(parameter)} {text!r} is unknown; choose {', '.join(choices)}.", hint=hint)
