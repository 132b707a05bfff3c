"""Put several files in place together, so that after an interruption of any kind all are the new ones or all the old.

New files wait beside their targets under temporary names. A journal in the folder says which they are; then each old
file gets a second name and each new one its place. Once all are in place, files that have to go are removed, then the
journal, then the old files. Whoever finds a journal that no process holds finishes what it says if every new file has
got its place, and takes everything back if not.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from decompose_cli.errors import InputError, param
from decompose_cli.storage.leftovers import BACKUP, JOURNAL, NAME, TEMPORARY, temporary_prefix
from decompose_cli.storage.ordinary_files import read_ordinary

_LOCK = ".decompose-lock"
_FORMAT = 1
_PATIENCE_S = 10
NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)  # what file systems without them say

Stamp = tuple[int, int, int]
"""Number, size and modification time in ns, which a file keeps when it gets another name."""


class _Placed(NamedTuple):
    """A new file; paths are relative to the folder, and ``stamp`` is that of the new file."""

    target: str
    new: str
    old: str
    stamp: Stamp


class _Removed(NamedTuple):
    """A file that has to go, as long as it is still the one of this stamp."""

    target: str
    stamp: Stamp


def commit(folder: Path, placed: Mapping[Path, Path], removed: Sequence[Path]) -> None:
    """Put files in place and remove others, all or none.

    Args:
        folder: Folder that all files are in or below; gets the journal.
        placed: For each file that waits under a temporary name beside its target, and is on the disk, the target.
        removed: Files to remove; folders below ``folder`` that they leave empty go with them.

    Raises:
        OSError: The file system refuses something; all is as it was before.
        InputError: Another process is at work in the folder, or another user's update was broken off there.
    """
    with _locked(folder):
        _recover(folder)
        update = {
            "format": _FORMAT,
            "placed": [_placed(folder, new, target)._asdict() for new, target in placed.items()],
            "removed": [
                _Removed(_relative(folder, path), stamp)._asdict() for path in removed if (stamp := _stamp(path))
            ],
        }
        _write(folder, update)
        try:
            for new, target in placed.items():
                _keep(target, new.with_suffix(BACKUP))
                new.replace(target)
        finally:
            _recover(folder)


def settle(folder: Path) -> None:
    """Finish or take back an update of a folder, or of the one above it, whose process is gone.

    A journal that this user may not act on, or that a process still holds, is left as it is.
    """
    for place in (folder, folder.absolute().parent):
        if os.path.lexists(place / JOURNAL) or os.path.lexists(place / _LOCK):
            with suppress(OSError, InputError), _locked(place):
                _recover(place)


def _placed(folder: Path, new: Path, target: Path) -> _Placed:
    stamp = _stamp(new)
    assert stamp is not None
    return _Placed(_relative(folder, target), _relative(folder, new), _relative(folder, new.with_suffix(BACKUP)), stamp)


def _relative(folder: Path, path: Path) -> str:
    return (Path(os.path.realpath(path.parent)) / path.name).relative_to(os.path.realpath(folder)).as_posix()


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _keep(target: Path, old: Path) -> None:
    """Give the file that is there another name as well, or instead where there are no hard links."""
    if not os.path.lexists(target):
        return
    if target.is_symlink():  # what it points to may be anywhere
        target.rename(old)
        return
    try:
        old.hardlink_to(target)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        target.rename(old)


def _write(folder: Path, update: Mapping[str, Any]) -> None:
    descriptor, name = tempfile.mkstemp(prefix=temporary_prefix(), suffix=TEMPORARY, dir=os.path.realpath(folder))
    os.close(descriptor)
    temporary = Path(name)
    try:
        with temporary.open("w", encoding="ascii") as handle:
            json.dump(update, handle)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(folder / JOURNAL)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(folder)


def _sync(folder: Path) -> None:
    """Have the names in a folder on the disk, where the system can do that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _recover(folder: Path) -> None:
    """Bring the update in a folder, if there is one, to one of its two ends; doing it twice does no harm."""
    read = _read(folder)
    if read is None:
        return
    placed, removed = read
    targets = [entry.target for entry in placed] + [gone.target for gone in removed]
    folders = {(folder / target).parent for target in targets}
    if all(_stamp(folder / entry.target) == entry.stamp for entry in placed):
        for gone in removed:
            if _stamp(folder / gone.target) == gone.stamp:
                (folder / gone.target).unlink(missing_ok=True)
    else:
        for entry in placed:
            _take_back(folder / entry.target, folder / entry.old, entry.stamp)
    unused = [folder / name for entry in placed for name in (entry.new, entry.old)]
    for changed in folders:
        _sync(changed)
    (folder / JOURNAL).unlink(missing_ok=True)
    for path in unused:
        path.unlink(missing_ok=True)
    _remove_empty(folder, folders)


def _take_back(target: Path, old: Path, stamp: Stamp) -> None:
    """Put the old file in its place again, or remove the new one where there was none."""
    now = _stamp(target)
    if not os.path.lexists(old):
        if now == stamp:
            target.unlink(missing_ok=True)
        return
    if now in (None, stamp):  # else somebody has put another file there since, or it is the old one still
        old.replace(target)
    old.unlink(missing_ok=True)  # both names may have been of one file, which a rename leaves as it is


def _remove_empty(folder: Path, below: set[Path]) -> None:
    whole = {path for place in below for path in (place, *place.parents) if folder in path.parents}
    for path in sorted(whole, key=lambda path: -len(path.parts)):
        with suppress(OSError):
            path.rmdir()


def _read(folder: Path) -> tuple[list[_Placed], list[_Removed]] | None:
    """What the journal in a folder says; None if there is none.

    Raises:
        InputError: It is damaged, names files elsewhere, or is another user's.
    """
    journal = folder / JOURNAL
    try:
        owner = journal.lstat().st_uid
    except FileNotFoundError:
        return None
    hint = f"Look at the files in {folder}, then remove {JOURNAL}; or choose another {param('output')}."
    if hasattr(os, "geteuid") and owner != os.geteuid():
        raise InputError(f"Another user's update of {folder} was broken off.", hint=hint)
    try:
        content = json.loads(read_ordinary(journal))
        if content["format"] != _FORMAT:
            raise ValueError
        placed = [_Placed(**{**entry, "stamp": tuple(entry["stamp"])}) for entry in content["placed"]]
        removed = [_Removed(**{**entry, "stamp": tuple(entry["stamp"])}) for entry in content["removed"]]
        for entry in placed:
            _check_inside(entry.target, entry.new, entry.old)
        for gone in removed:
            _check_inside(gone.target)
    except FileNotFoundError:  # another process has just come to the end of it
        return None
    except (InputError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"An update of {folder} was broken off, and its {JOURNAL} is damaged.", hint=hint) from error
    return placed, removed


def _check_inside(target: str, *temporary: str) -> None:
    path = PurePosixPath(target)
    names = [PurePosixPath(name) for name in temporary]
    if path.is_absolute() or ".." in path.parts or "\0" in target or not path.name:
        raise ValueError
    os.fsencode(target)  # raises a ValueError where no path can be this
    if any(name.parent != path.parent or not NAME.fullmatch(name.name) for name in names):
        raise ValueError


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from settling or beginning an update; the lock of a process that is gone is gone too."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / _LOCK)
    is_locked = True
    try:
        lock.acquire(timeout=_PATIENCE_S)
    except Timeout:
        raise InputError(
            f"Another process is writing into {folder}.", hint=f"Wait for it, or choose another {param('output')}."
        ) from None
    except NotImplementedError:  # a file system without locks
        is_locked = False
    try:
        yield
    finally:
        with suppress(OSError):  # removed before the release: whoever waits for this file notices that it is gone
            (folder / _LOCK).unlink(missing_ok=True)
        if is_locked:
            lock.release()
