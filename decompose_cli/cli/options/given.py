"""Paths that are typed for an option, checked before any command sees them."""

from __future__ import annotations

from pathlib import Path

import typer

from decompose_cli.errors import InputError
from decompose_cli.storage.files import user_path


def given_path(text: str) -> Path:
    """The path that was typed, with ``~`` expanded.

    Raises:
        typer.BadParameter: It is empty, or nothing can be called so.
    """
    if not str(text).strip():
        raise typer.BadParameter("the path is empty; the current folder is '.'.")
    try:
        return user_path(text)
    except InputError as error:
        raise typer.BadParameter(" ".join(filter(None, (error.message, error.hint)))) from None
