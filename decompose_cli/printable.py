"""Text of files, servers and people as it may be shown: no letter commands the terminal, and it has an end."""

from __future__ import annotations

import unicodedata

LONGEST = 2000
"""Letters that a sentence has at most."""
LONGEST_CELL = 300
"""Letters that a cell of a table has at most."""
_JOINERS = "\u200c\u200d\u00ad"  # which words of some languages, and some emoji, are written with


def printable(text: str, longest: int = LONGEST) -> str:
    r"""The text on one line, with escapes for control characters and other letters that cannot be seen.

    These are C0, C1 and DEL, which move cursors and set colours and titles; line breaks; overrides of the direction of
    writing; halves of characters, as which Python reads names of files that are not UTF-8; and what is in no alphabet.
    The middle of a text that is too long is left out.

    >>> printable("cat\x1b[2J\ndog")
    'cat\\x1b[2J\\ndog'
    >>> printable("a" * 50 + "b" * 50, 40)
    'aaaaaaaa ... (86 letters left out) ... bbbbbb'
    """
    if len(text) > longest:
        end = longest // 6
        start = longest - end
        text = f"{text[:start]} ... ({len(text) - longest:,} letters left out) ... {text[-end:]}"
    return text if text.isprintable() else "".join(map(_escaped, text))


def counted(count: float, thing: str, several: str | None = None) -> str:
    """So many of a thing, in words that agree.

    >>> counted(1, "file"), counted(2, "file"), counted(0, "entry", "entries"), counted(1234, "image")
    ('1 file', '2 files', '0 entries', '1,234 images')
    >>> counted(1.0, "point"), counted(0.5, "point")
    ('1 point', '0.5 points')
    """
    number = f"{count:g}" if isinstance(count, float) else f"{count:,}"
    return f"{number} {thing if count == 1 else several or f'{thing}s'}"


def shortest(value: float) -> str:
    """A number in as few characters as say it, as somebody would type it.

    >>> shortest(0.0), shortest(1e9), shortest(0.1), shortest(float("nan"))
    ('0', '1000000000', '0.1', 'nan')
    """
    return f"{value:.15g}"


def printable_lines(text: str, longest: int = LONGEST) -> str:
    """A text of several lines, such as a traceback, each as :func:`printable` has it."""
    return "\n".join(printable(line, longest) for line in text.split("\n"))


def _escaped(letter: str) -> str:
    if letter.isprintable() or letter in _JOINERS or unicodedata.category(letter) == "Zs":
        return letter
    return letter.encode("unicode_escape").decode("ascii")
