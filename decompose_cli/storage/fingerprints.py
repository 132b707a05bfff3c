"""Digests that tell whether files, values or images in memory have changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decompose_cli.errors import DecomposeError, InputError
from decompose_cli.storage.files import cache_root, write_text

if TYPE_CHECKING:
    from torch import Tensor


def pixel_fingerprint(pixels: Tensor, labels: Tensor) -> str:
    """SHA-256 of shape, pixels and labels."""
    digest = hashlib.sha256(repr(tuple(pixels.shape)).encode())
    digest.update(memoryview(pixels.contiguous().numpy()))  # type: ignore[arg-type]
    digest.update(memoryview(labels.contiguous().numpy()))  # type: ignore[arg-type]
    return digest.hexdigest()


def file_stamp(paths: Sequence[Path], root: Path | None = None) -> list[tuple[str, int, int]]:
    """(path, size, modification time in ns) of each file; paths relative to ``root`` if given."""
    stamps = []
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            raise InputError(f"{path} is listed but cannot be read: {error.strerror or error}.") from error
        name = path.relative_to(root).as_posix() if root else str(path.resolve())
        stamps.append((name, status.st_size, status.st_mtime_ns))
    return stamps


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON-ready value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def remembered(key: Any, compute: Callable[[], str]) -> str:
    """Look a digest up in the cache folder, or compute and note it; a cache that cannot be written is no error."""
    path = cache_root() / "fingerprints" / digest_of(key)
    try:
        value = path.read_text(encoding="ascii").strip()
        if len(value) == 64 and set(value) <= set("0123456789abcdef"):
            return value
    except (OSError, UnicodeDecodeError):
        pass
    value = compute()
    with suppress(DecomposeError):
        write_text(path, value + "\n")
    return value
