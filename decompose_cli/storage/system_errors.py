"""What the system refuses, as sentences: about a path that is bad, or about a machine that fails."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from decompose_cli.errors import DecomposeError, InputError, param


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an error of the file system into one about this path, as :func:`write_error` has it."""
    try:
        yield
    except OSError as error:
        raise write_error(path, error) from error


_BAD_PATH = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENAMETOOLONG,
    errno.EILSEQ,
    errno.ELOOP,
)


def write_error(path: Path, error: OSError) -> DecomposeError:
    """The error for a file that could not be written: the path is bad (exit 2), or the disk failed (exit 1)."""
    if error.errno == errno.ENOSPC:
        return DecomposeError(
            f"No space left on the disk while writing {path}; nothing was left half-written.",
            hint=f"Free some space or choose another place with {param('output')}.",
        )
    if error.errno in _BAD_PATH:
        return InputError(
            f"Cannot write {path}: {error.strerror}.", hint=f"Choose another place with {param('output')}."
        )
    return DecomposeError(f"Cannot write {path}: {error.strerror or error}.")


_MEMORY = ("can't allocate memory", "not enough memory", "Cannot allocate memory", "bad_alloc", "out of memory")
"""What torch and the libraries beneath it say as a RuntimeError."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, of the machine or of its accelerator."""
    if isinstance(error, RuntimeError):  # among them torch.OutOfMemoryError, which is not imported for this
        return type(error).__name__ == "OutOfMemoryError" or any(text in str(error) for text in _MEMORY)
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)


def memory_error(error: BaseException, device: str = "The accelerator") -> DecomposeError:
    """The error for memory that has run out, of a device or of the machine, as :func:`is_out_of_memory` knows it."""
    if type(error).__name__ == "OutOfMemoryError" or "CUDA" in str(error):
        return DecomposeError(f"{device} ran out of memory.", hint=f"Choose a smaller {param('batch_size')}.")
    return DecomposeError(
        "The memory of this machine was not enough.",
        hint="Give the command fewer images at once, or images of fewer pixels, or run it where there is more.",
    )


def system_error(error: OSError) -> DecomposeError:
    """The error for what the system refuses and nobody foresaw: about a path (exit 2), or the machine (1)."""
    if error.filename is None:
        return DecomposeError(f"The system refuses what this command needs: {error.strerror}.")
    name = error.filename if isinstance(error.filename, int) else os.fsdecode(error.filename)
    kind = InputError if error.errno in _BAD_PATH else DecomposeError
    return kind(f"Cannot use {name}: {error.strerror}.")
