"""Files of safetensors wherever they lie: the library takes UTF-8 paths alone, and names of files are bytes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a file of safetensors.

    Raises:
        OSError: The file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save, save_file

    if not _is_utf8(path):
        path.write_bytes(save(dict(tensors), metadata=dict(metadata)))
        return
    try:
        save_file(dict(tensors), path, metadata=dict(metadata))
    except SafetensorError as error:  # the library says what the system refused in words alone
        if (number := re.search(r"\(os error (\d+)\)", str(error))) is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


@contextmanager
def readable_path(path: Path) -> Iterator[str]:
    """A path of the file that the library takes, for the time of the block: its own, or that of an open descriptor.

    Raises:
        OSError: The file cannot be opened; only where its path is not UTF-8.
    """
    if _is_utf8(path):
        yield str(path)
    else:
        with path.open("rb") as file:
            yield f"/dev/fd/{file.fileno()}"


def _is_utf8(path: Path) -> bool:
    try:
        os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
