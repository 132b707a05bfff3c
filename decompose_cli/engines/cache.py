"""``cache``: the features that are kept on disk, and what is kept of data sets beside them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from decompose_cli.datasets.kept_files import kept_notes, kept_tables, shards_folder, tables_folder
from decompose_cli.features import cache as feature_cache


@dataclass(frozen=True)
class CachedFeatures:
    """One entry: what the features were computed from, or what else it is; bytes; time of making (local, ISO 8601)."""

    description: str
    file: str
    size: int
    made: str


@dataclass(frozen=True)
class CacheStatus:
    """The folder of the cache and its entries, most recent first."""

    folder: str
    entries: list[CachedFeatures]


def list_cache() -> CacheStatus:
    """List the entries of the cache."""
    entries = [
        CachedFeatures(
            entry.description,
            entry.path.name,
            entry.size,
            _shown(entry.modified),
        )
        for entry in feature_cache.entries()
    ]
    root = tables_folder()
    for kept in kept_tables():
        with suppress(OSError):  # it has just been deleted
            entries.append(
                CachedFeatures(
                    "a table that the library datasets made of local files",
                    str(kept.path.relative_to(root.parent)),
                    feature_cache.size_of(kept.path),
                    _shown(kept.path.stat().st_mtime),
                )
            )
    with suppress(OSError):
        if notes := [kept.path for kept in kept_notes()]:
            entries.append(
                CachedFeatures(
                    f"what is in {len(notes):,} tar shards",
                    shards_folder().name,
                    sum(map(feature_cache.size_of, notes)),
                    _shown(max(path.stat().st_mtime for path in notes)),
                )
            )
    return CacheStatus(str(feature_cache.features_folder()), entries)


def clear_cache(older_than_days: float = 0) -> tuple[int, int]:
    """Delete entries older than so many days; return their number and bytes."""
    count, freed = feature_cache.clear(older_than_days)
    others = ((kept.path, kept.lock) for kept in (*kept_tables(), *kept_notes()))
    more, bytes_more = feature_cache.cleared(others, older_than_days)
    return count + more, freed + bytes_more


def _shown(modified: float) -> str:
    return datetime.fromtimestamp(modified).isoformat(timespec="seconds")
