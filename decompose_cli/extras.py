"""Packages that come with an extra only: imported where they are needed, and missed in a sentence."""

from __future__ import annotations

import importlib
from types import ModuleType

from decompose_cli.errors import InputError, first_line


def import_extra(package: str, extra: str, what: str) -> ModuleType:
    """Import a package that an extra of this one brings.

    Args:
        package: Name of the package.
        extra: Name of the extra.
        what: What needs it, which begins the sentence.

    Raises:
        InputError: The package is missing or broken; the hint says how to install it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InputError(
            f"{what} needs the package {package}, which cannot be imported ({first_line(error)}).",
            hint=f'Install it with: pip install "decompose-cli[{extra}]".',
        ) from error
