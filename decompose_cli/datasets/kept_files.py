"""What is kept of data sets in the cache folder: notes of tar shards, and tables of the library `datasets`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from decompose_cli.storage.files import cache_root


@dataclass(frozen=True)
class Kept:
    """A file or folder that is made again where it is needed.

    Attributes:
        path: Where it is.
        lock: The file that whoever makes it has locked.
    """

    path: Path
    lock: Path


def shards_folder() -> Path:
    """The folder of :mod:`.shard_notes`."""
    return cache_root() / "shards"


def tables_folder() -> Path:
    """The folder in which the library `datasets` keeps the tables that it makes of local files."""
    return cache_root() / "huggingface"


def kept_notes() -> Iterator[Kept]:
    """The notes of tar shards."""
    for path in sorted(_below(shards_folder(), "*.npz")):
        yield Kept(path, path.with_suffix(".lock"))


def kept_tables() -> Iterator[Kept]:
    """The tables, those that were not finished too, and what was unpacked for them."""
    root = tables_folder()
    tables = {path.parent for path in _below(root, "**/dataset_info.json")} | {*_below(root, "**/*.incomplete")}
    unpacked = {*_below(root, "downloads/*"), *_below(root, "downloads/extracted/*")} - {root / "downloads/extracted"}
    for path in sorted(tables | unpacked):
        name = path.name.removesuffix(".incomplete")
        yield Kept(path, path.with_name(f"{name}_builder.lock"))


def _below(root: Path, pattern: str) -> list[Path]:
    """What matches there; nothing where the cache cannot be read, which is said of its features."""
    try:
        return list(root.glob(pattern))
    except OSError:
        return []
