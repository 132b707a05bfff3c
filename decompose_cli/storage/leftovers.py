"""Temporary files: how they are named, and which of them a process that is gone has left."""

from __future__ import annotations

import functools
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TEMPORARY, BACKUP = ".tmp", ".old"
JOURNAL = ".decompose-journal"
"""The file that says what an update of a folder was about to do; see :mod:`decompose_cli.storage.journal`."""
NAME = re.compile(
    r"\.decompose-(?:(?P<machine>[0-9a-f]{8})-(?P<process>\d{1,9})-(?P<start>\d{1,20})-)?[a-z0-9_]{1,40}\.(tmp|old)"
)
"""Names of temporary files; those of earlier versions do not say which process they belong to."""
_DAY_S = 86400


@functools.cache
def _machine() -> str:
    """A word for this machine since it was started, or for this container, whose processes are numbered on their own.

    Where the system does not say when it was started, it stands for the machine alone.
    """
    import hashlib  # with platform, two milliseconds of every start
    import platform

    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _start_of(process: int) -> int:
    """When a process began, in ticks since the machine did; 0 where that is not known."""
    try:
        fields = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()
        return int(fields[19])
    except (OSError, IndexError, ValueError):
        return 0


def temporary_prefix() -> str:
    """How the names of this process's temporary files begin: with the machine, the process, and when it began."""
    process = os.getpid()
    return f".decompose-{_machine()}-{process}-{_start_of(process)}-"


@contextmanager
def temporary_folder(beside: Path) -> Iterator[Path]:
    """A folder in ``beside`` for the time of the block."""
    sweep(beside)
    folder = Path(tempfile.mkdtemp(prefix=temporary_prefix(), suffix=TEMPORARY, dir=os.path.realpath(beside)))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(folder: Path, *, alone: bool = False) -> None:
    """Remove temporary files from a folder that nobody needs any more; what cannot be removed stays.

    These are the files of a process of this machine that is gone, and those older than a day of other machines. An
    update that was broken off still needs its files, and is settled first.

    Args:
        folder: The folder.
        alone: Whether the caller keeps all others out of the folder; then files of processes unknown go at once.
    """
    if any(os.path.lexists(place / JOURNAL) for place in (folder, folder.absolute().parent)):
        return
    with suppress(OSError), os.scandir(folder) as found:
        entries = [(entry, match) for entry in found if (match := NAME.fullmatch(entry.name))]
        for entry, match in entries:
            with suppress(OSError):
                if _is_left_over(entry, match, alone=alone):
                    _remove(entry)


def sweep_reserved(folder: Path) -> None:
    """Remove the folders in ``folder`` that processes which are gone had made for results, and nothing else is in."""
    with suppress(OSError), os.scandir(folder) as found:
        for entry in found:
            with suppress(OSError):
                path = Path(entry.path)
                names = [inside.name for inside in path.iterdir()] if entry.is_dir(follow_symlinks=False) else []
                if names and all(map(NAME.fullmatch, names)):  # one that is empty has only just been made
                    sweep(path)
                    path.rmdir()


def _remove(entry: os.DirEntry[str]) -> None:
    if entry.is_dir(follow_symlinks=False):
        shutil.rmtree(entry.path, ignore_errors=True)
    else:
        Path(entry.path).unlink(missing_ok=True)


def _is_left_over(entry: os.DirEntry[str], match: re.Match[str], *, alone: bool) -> bool:
    if match["machine"] == _machine() and os.name == "posix":
        process = int(match["process"])
        if process == os.getpid() and int(match["start"]) == _start_of(process):
            return alone
        return not _is_running(process, int(match["start"]))
    is_unknown = match["machine"] is None
    return (alone and is_unknown) or time.time() - entry.stat(follow_symlinks=False).st_mtime > _DAY_S


def _is_running(process: int, start: int) -> bool:
    """Whether a process is still there; another one that has got its number since began at another time."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        pass
    return start == 0 or _start_of(process) in (0, start)
