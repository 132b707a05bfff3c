"""Text files of the user's, and JSON in them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from decompose_cli.errors import InputError, shortened
from decompose_cli.storage.journal import settle
from decompose_cli.storage.memory import check_fits
from decompose_cli.storage.ordinary_files import MOST_TEXT, check_ordinary

_MOST_PARTS, _MOST_VALUES = 1_000_000, 15_000_000
"""Lists and objects, and values, of a foreign JSON file: text of a few megabytes would fill gigabytes."""
_BYTES_OF_A_PART, _BYTES_OF_A_VALUE = 64, 32  # at least
_ELSEWHERE = "Read it where there is more memory."


def read_text(
    path: Path, what: str, kind: str = "a text file", hint: str | None = None, most: int | None = MOST_TEXT
) -> str:
    """Read a text file of the user's.

    Args:
        path: The file.
        what: What it is, as the beginning of a sentence.
        kind: What a file that is no UTF-8 is not.
        hint: What to do if it is not.
        most: Bytes that such a file may have; None for as many as fit into memory.

    Raises:
        InputError: The file is missing, unreadable, no ordinary one, larger than any such file, empty or not UTF-8.
    """
    settle(path.parent)
    try:
        check_ordinary(path, what, most)
        if most is None:
            check_fits(path.stat().st_size, f"Reading {path}", _ELSEWHERE)
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{what} {path} does not exist.") from None
    except UnicodeDecodeError:
        raise InputError(f"{what} {path} is not {kind}.", hint=hint) from None
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read: {error.strerror or error}.") from error
    if not text.strip():
        raise InputError(f"{what} {path} is empty.")
    return text


def read_json(path: Path, what: str, hint: str | None = None) -> Any:
    """Parse a JSON file of the user's, and refuse what is not plain JSON (duplicate keys, ``NaN``) with a sentence.

    Raises:
        InputError: The file is missing, unreadable, empty, not UTF-8, not JSON, or of more values than memory is for.
    """
    text = read_text(path, what, "a JSON text file", hint)
    for most, kind, marks in ((_MOST_PARTS, "lists and objects", "[{"), (_MOST_VALUES, "values", ",")):
        if (found := sum(map(text.count, marks))) > most:
            raise InputError(f"{what} {path} has {found:,} {kind}, and no such file has more than {most:,}.", hint=hint)
    return _parsed(text, path, what)


def read_result(path: Path, what: str = "The result", hint: str | None = None) -> Any:
    """Parse a document that a command wrote, as :func:`read_json` does, of any size that fits into memory.

    Raises:
        InputError: As :func:`read_json` says.
    """
    text = read_text(path, what, "a JSON text file", hint, most=None)
    parts = text.count("[") + text.count("{")
    check_fits(_BYTES_OF_A_PART * parts + _BYTES_OF_A_VALUE * text.count(","), f"Reading {path}", _ELSEWHERE)
    return _parsed(text, path, what)


def _parsed(text: str, path: Path, what: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError:
        raise InputError(f"{what} {path} is not valid JSON: its lists lie too deep in one another.") from None
    except ValueError as error:
        reason = (
            "a number in it has thousands of digits"
            if "int_max_str_digits" in str(error)
            else shortened(str(error), 200)
        )
        raise InputError(f"{what} {path} is not valid JSON: {reason}.") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {shortened(repr(repeated))} stands twice")
    return found


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"{shortened(text)} is too large for a number")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
