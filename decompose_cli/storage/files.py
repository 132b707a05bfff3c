"""Write files whole or not at all, check paths, and find the cache folder."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from decompose_cli.errors import InputError, param
from decompose_cli.storage.journal import NO_HARD_LINKS, settle
from decompose_cli.storage.leftovers import TEMPORARY, sweep, temporary_prefix
from decompose_cli.storage.ownership import obstacle
from decompose_cli.storage.path_texts import refuse_impossible
from decompose_cli.storage.system_errors import explained


def cache_root() -> Path:
    """The cache folder: ``$DECOMPOSE_CACHE``, else ``$XDG_CACHE_HOME/decompose``, else ``~/.cache/decompose``.

    For a user without a home, such as a number that a container was started with, it is in the folder for temporary
    files.

    Raises:
        InputError: A variable names no place.
    """
    if explicit := os.environ.get("DECOMPOSE_CACHE"):
        return user_path(explicit)
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return user_path(xdg) / "decompose"
    try:
        return Path.home() / ".cache" / "decompose"
    except RuntimeError:
        return temporary_cache()


def temporary_cache() -> Path:
    """This user's folder for what the cache would keep, where that cannot be written: among the temporary files."""
    return Path(tempfile.gettempdir(), f"decompose-{os.getuid()}")


def check_trusted(path: Path) -> None:
    """Refuse a file of the cache that is neither this user's nor the administrator's: it may say anything.

    Raises:
        PermissionError: It is another user's.
    """
    if hasattr(os, "geteuid") and path.stat().st_uid not in (os.geteuid(), 0):
        raise PermissionError(errno.EPERM, "owned by another user")


@contextmanager
def atomic_path(target: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; it becomes ``target`` if the block succeeds and vanishes if not.

    The data are flushed to the disk before the rename, so after a crash ``target`` is either the old file or the new.

    Args:
        target: Path of the file to write.
        replace: Whether a file that is there by then is replaced; otherwise ``FileExistsError`` is raised.

    Raises:
        OSError: The file system refuses something; nothing is left behind.
    """
    with staged_path(target) as temporary:
        yield temporary
        finish_staged(temporary)
        if replace:
            temporary.replace(target)
        else:
            _rename_new(temporary, target)


@contextmanager
def staged_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``target``, in a folder that is made for it; what is there in the end is removed.

    Files that earlier processes left in this folder, and that nobody needs, are removed as well.

    Raises:
        OSError: The file system refuses something; nothing is left behind.
    """
    with _made(target.parent):
        sweep(target.parent)
        folder = os.path.realpath(target.parent)  # tempfile would leave "x/.." out, though x may be a link
        descriptor, name = tempfile.mkstemp(prefix=temporary_prefix(), suffix=TEMPORARY, dir=folder)
        os.close(descriptor)
        try:
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)


def finish_staged(temporary: Path) -> None:
    """Have a temporary file on the disk, which on some says only now that it is full, and readable as any other."""
    with temporary.open("rb+") as handle:
        os.fsync(handle.fileno())
    temporary.chmod(0o666 & ~_umask())  # mkstemp makes private files; results are ordinary ones


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make a folder and those above it; if the block fails, those that were made and are empty are removed again."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for path in missing:
            with suppress(OSError):
                path.rmdir()
        raise


def _rename_new(temporary: Path, target: Path) -> None:
    try:
        target.hardlink_to(temporary)  # fails where the name is taken, which a rename does not
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        target.open("x").close()  # reserves the name
        temporary.replace(target)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def as_bytes(text: str) -> bytes:
    r"""The text in UTF-8; what is no UTF-8 in a path is written ``\udcff``, as JSON reads it back."""
    return text.encode("utf-8", errors="backslashreplace")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, as :func:`as_bytes` has it.

    Raises:
        DecomposeError: The file cannot be written; nothing is left behind.
    """
    with explained(path), atomic_path(path) as temporary:
        temporary.write_bytes(as_bytes(text))


def write_under_new_name(names: Iterator[Path], text: str) -> Path:
    """Write a text file under the first name that is not taken, also where several processes choose at once.

    Raises:
        DecomposeError: The file cannot be written; nothing is left behind.
    """
    for path in names:
        with explained(path):
            try:
                with atomic_path(path, replace=False) as temporary:
                    temporary.write_bytes(as_bytes(text))
                return path
            except FileExistsError:
                continue
    raise AssertionError("there is always another name")


@contextmanager
def new_folder(names: Iterator[Path]) -> Iterator[Path]:
    """Make a folder under the first name that is not taken; if the block fails, it does not stay behind empty.

    Raises:
        DecomposeError: No folder can be made there.
    """
    for path in names:
        with explained(path):
            has_parent = path.parent.exists()
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.mkdir()
            except FileExistsError:
                continue
        break
    try:
        with _reserved(path):
            yield path
    except BaseException:
        with suppress(OSError):  # where something was written after all, it stays
            path.rmdir()
            if not has_parent:
                path.parent.rmdir()
        raise


@contextmanager
def _reserved(folder: Path) -> Iterator[None]:
    """Mark a folder as this process's while it is at work, so that it is found if the process is killed."""
    with explained(folder):
        descriptor, name = tempfile.mkstemp(prefix=temporary_prefix(), suffix=TEMPORARY, dir=os.path.realpath(folder))
        os.close(descriptor)
    try:
        yield
    finally:
        Path(name).unlink(missing_ok=True)


def user_path(text: str | Path) -> Path:
    """A path as the user wrote it, with ``~`` expanded.

    Raises:
        InputError: No path can be this, or ``~name`` names nobody.
    """
    refuse_impossible(text)
    try:
        return Path(text).expanduser()
    except RuntimeError:
        whose = Path(text).parts[0]
        raise InputError(
            f"{text} names no place: this system knows no home folder for {whose}.",
            hint=f"For a folder that is called so, write ./{whose}.",
        ) from None


def file_stem(text: str) -> str:
    """The last part of a path or dotted name, with anything unusual in a file name replaced.

    >>> file_stem("folder:images/"), file_stem("csv:images.csv"), file_stem("package.module:net")
    ('images', 'images.csv', 'package.module_net')
    """
    tail = re.sub(r"^[a-z]+:", "", text.rstrip("/").rsplit("/", 1)[-1]).lstrip(".") or "root"
    return "".join(char if char.isalnum() or char in "._-" else "_" for char in tail)[:60]


def given_file(text: str, parameter: str) -> Path:
    """The path of a file on this machine that a parameter names.

    Raises:
        InputError: The text is empty, or a URL.
    """
    if not text.strip():
        raise InputError(f"{param(parameter)} names no file.")
    if "://" in text:
        raise InputError(f"{param(parameter)} takes a file on this machine, not a URL.")
    return user_path(text)


def write_with(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file that then becomes ``path``; the errors are those of :func:`write_text`."""
    with explained(path), atomic_path(path) as temporary:
        write(temporary)


def check_writable(path: Path, *, overwrite: bool) -> None:
    """Refuse an output path that the user named before any work is done for it.

    Raises:
        InputError: A file is there that may not be replaced or is not of decompose, or no file can be made there.
    """
    check_place(path, overwrite=overwrite)
    with explained(path):
        why = obstacle(path) if path.is_file() else None
    if why is not None:
        raise InputError(f"{path} {why}, so it is not overwritten.", hint=f"Choose another {param('output')}.")


def check_place(path: Path, *, overwrite: bool) -> None:
    """Refuse a path for a file, whatever is in the file that is there.

    Raises:
        InputError: A file is there and may not be replaced, the path is a folder, or no file can be made there.
    """
    _check_name(path)
    with explained(path):
        settle(path.parent)
        exists, is_folder, is_file = os.path.lexists(path), path.is_dir(), path.is_file()
    if is_folder:
        raise InputError(f"Cannot write {path}: it is a folder.", hint=f"Give a file name with {param('output')}.")
    if exists and not is_file:
        raise InputError(
            f"Cannot write {path}: it is not an ordinary file.", hint=f"Use {param('json')} to print the result."
        )
    if exists and not overwrite:
        raise InputError(f"{path} exists already.", hint=f"Add {param('overwrite')} to replace it.")
    check_folder_writable(path.parent)


def check_folder_writable(folder: Path) -> None:
    """Refuse an output folder that is a file, or that can neither be written nor made.

    What the system says of permissions is not all (quotas, network disks, a disk that is full), so a file that has no
    name is made there, or in the nearest folder above that is there already.

    Raises:
        InputError: The folder is a file, or it can neither be written nor made.
        DecomposeError: The disk is full, or fails.
    """
    _check_name(folder)
    existing = folder
    with explained(folder):
        settle(folder)
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
    if not existing.is_dir():
        raise InputError(f"Cannot write into {folder}: {existing} is not a folder.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"Cannot write into {folder}: permission denied.")
    with explained(folder), tempfile.TemporaryFile(dir=existing):
        pass


def _check_name(path: Path) -> None:
    """Refuse a path that the file system cannot have, whether or not the folders in it are there already.

    Raises:
        InputError: It is too long, or is not made of bytes.
    """
    refuse_impossible(path)
    existing = path.absolute()
    with explained(path):
        while not os.path.lexists(existing) and existing != existing.parent:
            existing = existing.parent
        # In a folder that is missing every name is merely missing, so each is looked for where something is.
        for place in (path / ("x" * 80), *(existing / name for name in path.absolute().relative_to(existing).parts)):
            with suppress(FileNotFoundError, NotADirectoryError):
                place.lstat()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    import hashlib

    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(handle)


def _digest(handle: Any) -> str:  # Python 3.10 has no hashlib.file_digest
    import hashlib

    digest = hashlib.sha256()
    while chunk := handle.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()
