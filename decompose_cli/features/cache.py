"""The cache of penultimate features, with which a second look at the same network and images needs no forward pass.

An entry is a bank (:mod:`decompose_cli.features.bank`) named after the digest of its key; the key names everything that
the features depend on (weights, architecture, head, precision, transform, images, split), so an entry never goes stale.
Where the images lie and what computed the features is no part of it. Chunks hold checksums, so damaged ones are noticed
and made anew, and an entry that was not finished is gone on with.
"""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor

from decompose_cli.features.bank import DAMAGED, BankFolder, remove
from decompose_cli.features.bank_header import FORMAT_VERSION
from decompose_cli.messages import note, warn
from decompose_cli.models.network import HeadTensors
from decompose_cli.storage.files import cache_root
from decompose_cli.storage.fingerprints import digest_of

_SUFFIX = ".bank"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class CacheEntry:
    """One bank of the cache."""

    path: Path
    size: int
    modified: float
    description: str


def features_folder() -> Path:
    """Folder of the entries."""
    return cache_root() / "features"


def entry_path(key: Mapping[str, Any]) -> Path:
    """Path of the bank for a key."""
    return features_folder() / f"{digest_of({**key, 'format': FORMAT_VERSION})[:40]}{_SUFFIX}"


def glance(key: Mapping[str, Any]) -> tuple[Tensor, HeadTensors] | None:
    """Labels and head of the bank for a key, whose features may be missing; None where there is no bank."""
    path, found = entry_path(key), None
    with suppress(OSError, *DAMAGED):  # load() says it
        bank = _opened(path, key)
        found = None if bank is None else bank.read_head()
    return found


def load(key: Mapping[str, Any]) -> BankFolder | None:
    """The complete bank for a key, or None; nothing is changed, as another command may be at work on it."""
    path = entry_path(key)
    with _unusable(path):
        bank = _opened(path, key)
        if bank is None or bank.pending():
            return None
        damaged = bank.damaged()
        if not damaged:
            return bank
        images = sum(len(bank.chunks[number]) for number in damaged)
        warn(f"Of the cached features {path} those of {images:,} images are damaged and are computed again.")
    return None


def started(key: Mapping[str, Any], computed_on: str) -> BankFolder | None:
    """The bank for a key that was begun on such a device, without what is damaged of it; else None, and its place free.

    To be called by whom :func:`alone` has let in.

    Raises:
        OSError: The cache cannot be written.
        DecomposeError: The same.
    """
    path = entry_path(key)
    for leftover in path.parent.glob(f"{path.name}.*"):  # of one that was killed while it made the bank
        remove(leftover)
    bank: BankFolder | None = None
    with suppress(OSError, *DAMAGED):
        found = _opened(path, key)
        if found is not None and found.header["computed_on"] == computed_on:
            damaged, bank = found.damaged(), found
    if bank is None:
        remove(path)
    else:
        bank.forget(damaged)
    return bank


def relatives(key: Mapping[str, Any], computed_on: str) -> Iterator[BankFolder]:
    """Banks of the same network on other images, such as the same before some of them were changed, latest first."""
    for bank in banks():
        of_other = bank.header["key"]
        is_alike = {**of_other, "dataset": None} == {**key, "dataset": None} and of_other != dict(key)
        if is_alike and bank.header["computed_on"] == computed_on:
            yield bank


def banks() -> Iterator[BankFolder]:
    """The banks of the cache that can be read, whether they are complete or not, most recent first."""
    for entry in entries():
        with suppress(OSError, *DAMAGED):
            yield BankFolder(entry.path)


@contextmanager
def _unusable(path: Path) -> Iterator[None]:
    """Say that a bank cannot be used."""
    try:
        yield
    except FileNotFoundError:
        pass  # one that was being removed
    except PermissionError as error:
        warn(f"The cached features {path} cannot be used ({error.strerror}) and are computed again.")
    except (OSError, *DAMAGED):
        warn(f"The cached features {path} are damaged and are computed again.")


def _opened(path: Path, key: Mapping[str, Any]) -> BankFolder | None:
    if not path.is_dir():
        return None
    bank = BankFolder(path)
    if digest_of(bank.header["key"]) != digest_of(dict(key)):
        raise ValueError("key")
    bank.read_head()
    return bank


@contextmanager
def alone(key: Mapping[str, Any]) -> Iterator[None]:
    """Keep out other commands that compute the same features; they wait for them.

    Raises:
        OSError: The cache cannot be written.
    """
    path = entry_path(key).with_suffix(".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        note("Another command is computing these features; waiting for it.")
        lock.acquire()
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        yield  # both compute the same
        return
    try:
        yield
    finally:
        with suppress(OSError):  # before the release: whoever waits for this file notices that it is gone
            path.unlink(missing_ok=True)
        lock.release()


def entries() -> list[CacheEntry]:
    """The entries of the cache, most recent first."""
    listed = []
    for path in _found():
        try:
            status = path.stat()
            size = size_of(path)
            if path.suffix == ".lock":
                continue
            listed.append(CacheEntry(path, size, status.st_mtime, _described(path)))
        except OSError:
            continue
    return sorted(listed, key=lambda entry: -entry.modified)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())


def _described(path: Path) -> str:
    if path.suffix != _SUFFIX:
        return "left by an earlier version, or by a command that was stopped"
    try:
        bank = BankFolder(path)
        missing = sum(len(bank.chunks[number]) for number in bank.pending())
        return str(bank.header["description"]) + (f", {missing:,} still to be computed" if missing else "")
    except (json.JSONDecodeError, *DAMAGED):
        return "damaged"


def _found() -> list[Path]:
    try:
        return list(features_folder().glob("*"))
    except OSError as error:
        warn(f"The cache {features_folder()} cannot be read: {error.strerror or error}.")
        return []


def clear(older_than_days: float = 0) -> tuple[int, int]:
    """Delete entries (and leftovers of an interrupted write) older than so many days; return their number and bytes.

    What another command is computing stays.
    """
    banks = [(path, path.with_name(path.name.partition(".")[0] + ".lock")) for path in _found()]
    return cleared(((path, lock) for path, lock in banks if path.suffix != ".lock"), older_than_days)


def cleared(found: Iterable[tuple[Path, Path]], older_than_days: float) -> tuple[int, int]:
    """Delete those of some files and folders that are older than so many days; return their number and bytes.

    Args:
        found: Each with the file that whoever makes it has locked.
        older_than_days: Age from which they are deleted.
    """
    limit = time.time() - 86400 * older_than_days
    count = freed = 0
    for path, lock in found:
        try:
            if path.stat().st_mtime > limit:
                continue
            with FileLock(lock, timeout=0):
                freed += remove(path)
                count += 1
                lock.unlink(missing_ok=True)
        except Timeout:
            note(f"{path.name} stays: another command is computing it.")
        except FileNotFoundError:
            pass  # another process is clearing too
        except (OSError, NotImplementedError) as error:
            warn(f"{path} cannot be removed: {getattr(error, 'strerror', None) or error}.")
    return count, freed
