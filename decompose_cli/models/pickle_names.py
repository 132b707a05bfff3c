"""The names of classes in a pickle have an end, before torch reads it.

Torch quotes a name that it does not know in a message, and searches this message with an expression that takes time by
the square of its length: minutes for a damaged file of 80 KB in which a name has no end.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from pathlib import Path

from typing_extensions import override

_LONGEST = 1000
_PICKLE = "data.pkl"


class ShortLines(io.BufferedReader):
    """A file of which no line is longer than a name; torch reads names alone as lines.

    Args:
        path: The file.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))

    @override
    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(_LONGEST + 1)
        if len(line) > _LONGEST:
            raise ValueError("a name without an end")
        return line


def check_names(path: Path) -> None:
    """Look at the names in the pickle of an archive of ``torch.save``; of other files :class:`ShortLines` does.

    Raises:
        ValueError: One is too long.
        Exception: Nearly any other, where the pickle is damaged.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.rpartition("/")[2] == _PICKLE:
                for code, argument, _ in pickletools.genops(archive.read(name)):
                    if code.name == "GLOBAL" and len(str(argument)) > _LONGEST:
                        raise ValueError("a name without an end")
