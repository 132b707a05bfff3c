"""Digests that tell whether files, values or images in memory have changed."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decompose_cli.errors import DecomposeError, InputError, first_line
from decompose_cli.messages import warn
from decompose_cli.storage.files import cache_root, check_trusted, write_text

if TYPE_CHECKING:
    from torch import Tensor

_FORMAT_VERSION = 2
_LONGEST = 200
_SAMPLED_FILES, _SAMPLED_BYTES = 32, 1 << 14


def pixel_fingerprint(pixels: Tensor, labels: Tensor) -> str:
    """SHA-256 of shape, pixels and labels."""
    digest = hashlib.sha256(repr(tuple(pixels.shape)).encode())
    digest.update(memoryview(pixels.contiguous().numpy()))  # type: ignore[arg-type]
    digest.update(memoryview(labels.contiguous().numpy()))  # type: ignore[arg-type]
    return digest.hexdigest()


def file_stamp(paths: Iterable[Path], root: Path) -> list[tuple[str, int, int]]:
    """(path, size, modification time in ns) of each file; paths relative to ``root``, those elsewhere absolute.

    Raises:
        InputError: A file is not there.
    """
    stamps = []
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            raise InputError(f"{path} is listed but cannot be read: {error.strerror or error}.") from error
        name = (path.relative_to(root) if path.is_relative_to(root) else path.resolve()).as_posix()
        stamps.append((name, status.st_size, status.st_mtime_ns))
    return stamps


def content_sample(paths: Sequence[Path]) -> str:
    """SHA-256 of what begin, middle and end of a few of the files hold, spread evenly over all; all of small files."""
    digest = hashlib.sha256()
    count = min(len(paths), _SAMPLED_FILES)
    for number in range(count):
        path = paths[number * (len(paths) - 1) // max(count - 1, 1)]
        try:
            with open(path, "rb", opener=_without_waiting) as handle:
                if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
                    continue
                size = handle.seek(0, os.SEEK_END)
                for place in (0, size // 2, max(size - _SAMPLED_BYTES, 0)):
                    handle.seek(place)
                    digest.update(hashlib.sha256(handle.read(_SAMPLED_BYTES)).digest())
        except OSError:  # it says so where it is needed
            digest.update(b"unreadable")
    return digest.hexdigest()


def _without_waiting(path: str, flags: int) -> int:
    """Open a file, or a pipe, which waits for somebody to write otherwise."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON-ready value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def remembered(key: Any, compute: Callable[[], str]) -> str:
    """Look a digest up in the cache folder, or compute and note it; a cache that cannot be used is no error.

    An entry is the digest and a checksum of it and of the key. One that is damaged, cannot be read or is another user's
    is computed again, with a warning.
    """
    name = digest_of([_FORMAT_VERSION, key])
    path = cache_root() / "fingerprints" / name
    try:
        if os.path.lexists(path):
            return _noted(path, name)
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or first_line(error)
        warn(f"The fingerprint {path} cannot be used ({reason}) and is computed again.")
    value = compute()
    with suppress(DecomposeError):
        write_text(path, f"{value} {_checksum(name, value)}\n")
    return value


def _noted(path: Path, name: str) -> str:
    check_trusted(path)
    if not path.is_file():  # reading a pipe would wait for ever
        raise ValueError("it is no ordinary file")
    with path.open("rb") as handle:
        value, _, checksum = handle.read(_LONGEST).decode("ascii").rstrip("\n").partition(" ")
    if checksum != _checksum(name, value):
        raise ValueError("it is damaged")
    return value


def _checksum(name: str, value: str) -> str:
    return hashlib.sha256(f"{name} {value}".encode()).hexdigest()[:16]
