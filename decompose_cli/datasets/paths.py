"""The paths of many files in a little memory, which processes share or are sent in no time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

from typing_extensions import override

if TYPE_CHECKING:
    import numpy as np

_AT_ONCE = 1 << 16


class PathTable(Sequence[Path]):
    """Paths below a folder, as the bytes of all their names and the places where these end.

    A list of a million paths is a million objects; a process that is forked copies them as it counts references to
    them, and one that is not makes them anew. These are two arrays.

    Args:
        root: The folder.
        text: The names one after another, uint8, with ``/`` between folders.
        ends: The place in ``text`` after each name, int64 (N,).
    """

    def __init__(self, root: Path, text: np.ndarray, ends: np.ndarray) -> None:
        self.root = root
        self.text = text
        self.ends = ends

    @classmethod
    def of(cls, root: Path, names: Iterable[str]) -> PathTable:
        """Make a table of names relative to ``root``; an absolute name stands for itself."""
        import numpy as np

        text, ends = bytearray(), []
        for name in names:
            text += os.fsencode(name)
            ends.append(len(text))
        return cls(root, np.frombuffer(bytes(text), dtype=np.uint8), np.array(ends, dtype=np.int64))

    @override
    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, number: int) -> Path: ...

    @overload
    def __getitem__(self, number: slice) -> PathTable: ...

    @override
    def __getitem__(self, number: int | slice) -> Path | PathTable:
        if isinstance(number, slice):
            return self.take(range(len(self))[number])
        return self.root / self.name(number)

    def name(self, number: int) -> str:
        """The name of a file, relative to the folder.

        Raises:
            IndexError: There is no such file.
        """
        number = range(len(self))[number]
        start = int(self.ends[number - 1]) if number else 0
        return os.fsdecode(self.text[start : int(self.ends[number])].tobytes())

    def names(self) -> Iterator[str]:
        """The names of all files, relative to the folder."""
        return map(self.name, range(len(self)))

    def take(self, numbers: Sequence[int] | np.ndarray) -> PathTable:
        """The paths with these numbers, in this order."""
        import numpy as np

        chosen = np.asarray(numbers, dtype=np.int64)
        lengths = np.diff(self.ends, prepend=0)[chosen]
        starts = self.ends[chosen] - lengths
        ends = lengths.cumsum()
        text = np.empty(int(lengths.sum()), dtype=np.uint8)
        for first in range(0, len(chosen), _AT_ONCE):  # of each letter, its place in both texts
            part = slice(first, first + _AT_ONCE)
            begin = ends[part] - lengths[part]
            here = np.arange(int(lengths[part].sum())) + (int(begin[0]) if len(begin) else 0)
            text[here] = self.text[here + np.repeat(starts[part] - begin, lengths[part])]
        return PathTable(self.root, text, ends)
