"""``cache``: the features that are kept on disk."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from decompose_cli.features import cache as feature_cache


@dataclass(frozen=True)
class CachedFeatures:
    """One entry: what the features were computed from, the size in bytes, the time of making (local, ISO 8601)."""

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
            datetime.fromtimestamp(entry.modified).isoformat(timespec="seconds"),
        )
        for entry in feature_cache.entries()
    ]
    return CacheStatus(str(feature_cache.features_folder()), entries)


def clear_cache(older_than_days: float = 0) -> tuple[int, int]:
    """Delete entries older than so many days; return their number and bytes."""
    return feature_cache.clear(older_than_days)
