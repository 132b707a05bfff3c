"""What libtiff, with which Pillow decodes compressed TIFF files, says of damage: it prints it to stderr by itself."""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from PIL import _imaging

from decompose_cli.datasets.overlapping import Overlapping


def _warn(decoder: bytes | None, _: bytes, __: int) -> None:
    """The text is a format whose values only C code can fetch; the name of the decoder has to do."""
    warnings.warn(f"{(decoder or b'libtiff').decode(errors='replace')} finds damaged data", stacklevel=1)


_handler = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)(_warn)


@contextmanager
def _handled() -> Iterator[None]:
    set_handler = _set_handler()
    if set_handler is None:
        yield
        return
    before = set_handler(ctypes.cast(_handler, ctypes.c_void_p))
    try:
        yield
    finally:
        set_handler(before)


damage_as_warnings = Overlapping(_handled)
"""Lets libtiff say in a block what it says as Python warnings; where it cannot be reached it prints as before.

Decoders of it that can go on after damage (those of fax) give no other sign of it.
"""


@cache
def _set_handler() -> Callable[[Any], Any] | None:
    try:
        found = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler  # of the library that Pillow is linked to
    except (AttributeError, OSError, TypeError):  # Pillow has it inside, where nobody sees it, or is without it
        return None
    found.argtypes, found.restype = [ctypes.c_void_p], ctypes.c_void_p
    return found
