"""The cache of penultimate features, with which a second look at the same network and images needs no forward pass.

An entry is one safetensors file named after the digest of its key; the key names everything that the features depend
on (weights, architecture, head, precision, transform, images, split), so an entry never goes stale. Entries are written
whole or not at all, and hold a checksum, so a damaged entry is noticed and made anew.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from decompose_cli.errors import DecomposeError
from decompose_cli.models.network import HeadTensors
from decompose_cli.progress import warn
from decompose_cli.storage.files import cache_root, check_trusted, write_with
from decompose_cli.storage.fingerprints import digest_of

FORMAT_VERSION = 3
_DAMAGED = (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError, MemoryError)
"""What reading a damaged entry raises; brackets that are nested too deep make the one before the last."""
_OPTIONAL = ("indices", "mask", "reference", "reference_bias")
_HEAD_PARTS = ("weight", "bias", *_OPTIONAL)


@dataclass(frozen=True)
class FeatureBank:
    """Penultimate features of a labelled set of images, and the head that they enter.

    Attributes:
        features: Features, float32 (N, D).
        labels: Labels of the data set, int64 (N,).
        head: Parameters of the head.
    """

    features: Tensor
    labels: Tensor
    head: HeadTensors


@dataclass(frozen=True)
class CacheEntry:
    """One file of the cache."""

    path: Path
    size: int
    modified: float
    description: str


def features_folder() -> Path:
    """Folder of the entries."""
    return cache_root() / "features"


def entry_path(key: Mapping[str, Any]) -> Path:
    """Path of the file for a key."""
    return features_folder() / f"{digest_of({**key, 'format': FORMAT_VERSION})[:40]}.safetensors"


def load(key: Mapping[str, Any]) -> FeatureBank | None:
    """The features for a key, or None if they are not there; a damaged entry is removed with a warning."""
    path = entry_path(key)
    try:
        if not path.is_file():
            return None
        check_trusted(path)
        with safe_open(path, framework="pt") as handle:
            header = json.loads(handle.metadata()["decompose"])
            # Tensors are copied: the file maps them at odd addresses, where matrix products round differently.
            tensors = {name: handle.get_tensor(name).clone() for name in handle.keys()}  # noqa: SIM118 - not a dict
        if header.pop("checksum") != _checksum(header, tensors) or digest_of(header["key"]) != digest_of(dict(key)):
            raise ValueError("checksum")
        head = HeadTensors(
            header["kind"],
            header["head"],
            tensors["head.weight"],
            tensors["head.bias"],
            header["num_features"],
            **{part: tensors.get(f"head.{part}") for part in _OPTIONAL},
        )
        return FeatureBank(tensors["features"], tensors["labels"], head)
    except PermissionError as error:
        warn(f"The cached features {path} cannot be used ({error.strerror}) and are computed again.")
        return None
    except _DAMAGED:
        warn(f"The cached features {path} are damaged and are computed again.")
        with suppress(OSError):  # a cache that is shared may be read-only
            path.unlink(missing_ok=True)
        return None


def store(key: Mapping[str, Any], bank: FeatureBank, description: str) -> bool:
    """Keep features for the next time, and say whether that went well; where it did not, there is a warning."""
    tensors = {"features": bank.features, "labels": bank.labels}
    for part in _HEAD_PARTS:
        value = getattr(bank.head, part)
        if value is not None:
            tensors[f"head.{part}"] = value.contiguous()
    header = {
        "kind": bank.head.kind,
        "head": bank.head.name,
        "num_features": bank.head.num_features,
        "description": description,
        "key": dict(key),
    }
    header["checksum"] = _checksum(header, tensors)
    try:
        write_with(entry_path(key), lambda path: save_file(tensors, path, metadata={"decompose": json.dumps(header)}))
    except (DecomposeError, SafetensorError) as error:
        warn(f"The features could not be kept for the next time: {error}")
        return False
    return True


def _checksum(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> int:
    value = zlib.crc32(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        data = tensor.contiguous().flatten().view(torch.uint8).numpy()
        value = zlib.crc32(memoryview(data), value)  # type: ignore[arg-type]
    return value


def entries() -> list[CacheEntry]:
    """The entries of the cache, most recent first."""
    listed = []
    for path in _found("*.safetensors"):
        try:
            status = path.stat()
        except OSError:
            continue
        try:
            with safe_open(path, framework="pt") as handle:
                description = str(json.loads(handle.metadata()["decompose"])["description"])
        except FileNotFoundError:
            continue
        except _DAMAGED:
            description = "damaged"
        listed.append(CacheEntry(path, status.st_size, status.st_mtime, description))
    return sorted(listed, key=lambda entry: -entry.modified)


def _found(pattern: str) -> list[Path]:
    try:
        return list(features_folder().glob(pattern))
    except OSError as error:
        warn(f"The cache {features_folder()} cannot be read: {error.strerror or error}.")
        return []


def clear(older_than_days: float = 0) -> tuple[int, int]:
    """Delete entries (and leftovers of an interrupted write) older than so many days; return their number and bytes."""
    limit = time.time() - 86400 * older_than_days
    count = freed = 0
    for path in _found("*"):
        with suppress(OSError):  # another process may be clearing too
            status = path.stat()
            if status.st_mtime > limit:
                continue
            path.unlink()
            count, freed = count + 1, freed + status.st_size
    return count, freed
