"""What a path names, looked at before it is opened: a pipe would be waited for, and a device never ends."""

from __future__ import annotations

import stat
from pathlib import Path

from decompose_cli.errors import InputError

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
MOST_TEXT = 200_000_000
"""Bytes of a text file that is read whole; the documents of networks with a thousand classes have a tenth of them."""


FREE = 1 << 26
"""Bytes that may come of a file of any length."""


def would_be_waited_for(path: Path) -> bool:
    """Whether there is something that is no file, such as a pipe; False for what is not there, or is gone by now."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def check_ordinary(path: Path, what: str, most: int | None = None) -> None:
    """Refuse a path that can be opened, but not read to an end: a pipe, a socket, a device, a folder, or too much.

    A pipe can be written to a file first, which is then read.

    Args:
        path: The file.
        what: What it is, as the beginning of a sentence.
        most: Bytes that it may have; None for any number.

    Raises:
        InputError: It is no ordinary file, or has more bytes.
        OSError: It is not there, or may not be looked at.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        hint = None if kind == "a folder" else "Write what comes from there to a file, and give that."
        raise InputError(f"{what} {path} is {kind}, not a file.", hint=hint)
    if most is not None and status.st_size > most:
        raise InputError(
            f"{what} {path} has {status.st_size / 1e6:,.0f} MB, and no such file has more than {most / 1e6:,.0f} MB."
        )


def read_ordinary(path: Path, what: str = "The file") -> bytes:
    """The bytes of a file that may be anything, but no more than text of ours has; see :func:`check_ordinary`."""
    check_ordinary(path, what, MOST_TEXT)
    with path.open("rb") as handle:
        return handle.read(MOST_TEXT)
