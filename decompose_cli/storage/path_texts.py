"""Texts that are meant as paths: what no file system can have."""

from __future__ import annotations

import os

from decompose_cli.errors import InputError, shortened


def refuse_impossible(text: str | os.PathLike[str]) -> None:
    """Refuse a text that no path can be.

    Raises:
        InputError: It holds a null character, or half of one of those that take two.
    """
    words = os.fspath(text)
    try:
        os.fsencode(words)
    except UnicodeEncodeError:
        raise InputError(f"{shortened(words)!a} cannot be a path: it holds half a character.") from None
    if "\0" in words:
        raise InputError(f"{shortened(words)!a} cannot be a path: it holds a null character.")
