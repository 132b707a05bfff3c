"""Text files of the user's."""

from __future__ import annotations

from pathlib import Path

from decompose_cli.errors import InputError
from decompose_cli.storage.journal import settle


def read_text(path: Path, what: str, kind: str = "a text file", hint: str | None = None) -> str:
    """Read a text file of the user's.

    Args:
        path: The file.
        what: What it is, as the beginning of a sentence.
        kind: What a file that is no UTF-8 is not.
        hint: What to do if it is not.

    Raises:
        InputError: The file is missing, unreadable, empty or not UTF-8.
    """
    settle(path.parent)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{what} {path} does not exist.") from None
    except IsADirectoryError:
        raise InputError(f"{what} {path} is a folder, not a file.") from None
    except UnicodeDecodeError:
        raise InputError(f"{what} {path} is not {kind}.", hint=hint) from None
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read: {error.strerror or error}.") from error
    if not text.strip():
        raise InputError(f"{what} {path} is empty.")
    return text
