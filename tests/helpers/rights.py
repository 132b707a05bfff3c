"""What a user without rights sees, also where the tests run as root, whom no permissions stop."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_VERSION_3 = 0x20080522
_OVERRIDES = 0b1110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@contextmanager
def no_privileges() -> Iterator[None]:
    """Let permissions hold for this thread, and for what it starts, in the block."""
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux lets root do without his privileges for a while")
    library, header, sets = ctypes.CDLL(None), _Header(_VERSION_3, 0), (_Sets * 2)()
    assert library.capget(ctypes.byref(header), sets) == 0
    before = sets[0].effective
    sets[0].effective = before & ~_OVERRIDES
    assert library.capset(ctypes.byref(header), sets) == 0
    try:
        yield
    finally:
        sets[0].effective = before
        library.capset(ctypes.byref(header), sets)


@contextmanager
def closed(path: Path, mode: int = 0) -> Iterator[None]:
    """Let nobody read a file or a folder, or have other permissions, in the block."""
    before = path.stat().st_mode
    path.chmod(mode)
    try:
        with no_privileges():
            yield
    finally:
        path.chmod(before)
