"""Images in a table of the library `datasets`: a row each, with bytes of an image file or the path of one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from typing_extensions import override

from decompose_cli.datasets.decoding import Encoded
from decompose_cli.datasets.manifest import digests_of
from decompose_cli.errors import InputError
from decompose_cli.storage.fingerprints import content_sample, digest_of, file_stamp

if TYPE_CHECKING:
    from datasets import Dataset

_SAMPLED = 32


@dataclass(frozen=True)
class TableImages(Sequence[Any]):
    """Images in the rows of a table, each read when it is asked for.

    Attributes:
        table: The table, whose column of images is not decoded.
        column: Name of the column.
        where: What the table is, for messages.
        rows: Number of the row of each image, int64 (N,).
        stamps: What else tells one table from another, JSON-ready.
    """

    table: Dataset
    column: str
    where: str
    rows: np.ndarray
    stamps: tuple[Any, ...] = ()

    @override
    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, number: int) -> Path | Encoded: ...

    @overload
    def __getitem__(self, number: slice) -> TableImages: ...

    @override
    def __getitem__(self, number: int | slice) -> Path | Encoded | TableImages:
        if isinstance(number, slice):
            return self.take(np.arange(len(self))[number])
        name = f"{self.name(number)} of {self.where}"
        stored = self.table[int(self.rows[number])][self.column]
        if isinstance(stored, dict):
            if stored.get("bytes") is None and stored.get("path"):
                path = Path(stored["path"])
                if path.exists() and not path.is_file():  # a pipe would be waited for
                    raise InputError(f"The image in {name} is {path}, which is no regular file.")
                return path
            stored = stored.get("bytes")
        if not isinstance(stored, bytes):
            raise InputError(f"The image in {name} is missing.")
        return Encoded(name, stored)

    @property
    def files(self) -> TableImages:
        """The images themselves."""
        return self

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the rows, of a sample of the images in them, and of what else is known of the table.

        Rows that are paths say nothing of the images, whose files are stamped, all of them.
        """
        count = min(len(self), _SAMPLED)
        sampled = [self._content(number * (len(self) - 1) // max(count - 1, 1)) for number in range(count)]
        return digest_of([digests_of(self.rows), sampled, self._files, list(self.stamps)])

    @property
    def _files(self) -> list[Any]:
        """Name, size and time of each file that a row names, and a sample of what they hold."""
        import pyarrow

        column = self.table.with_format("arrow")[:][self.column]
        if not pyarrow.types.is_struct(column.type) or column.type.get_field_index("path") < 0:
            return []
        rows = pyarrow.array(self.rows)
        paths = [chunk.field("path") for chunk in column.chunks]
        named = pyarrow.chunked_array(paths, column.type.field("path").type).take(rows).to_pylist()
        if column.type.get_field_index("bytes") >= 0:
            empty = [chunk.field("bytes").is_null() for chunk in column.chunks]
            is_file = pyarrow.chunked_array(empty, pyarrow.bool_()).take(rows).to_pylist()
            named = [path if alone else None for path, alone in zip(named, is_file, strict=True)]
        files = [Path(path) for path in named if path]
        if not files:
            return []
        root = Path(os.path.commonpath([file.absolute().parent for file in files]))
        return [[_stamp(file, root) for file in files], content_sample(files)]

    def _content(self, number: int) -> str:
        try:
            image = self[number]
        except InputError:
            return "unreadable"
        if isinstance(image, Path):
            return "a file"
        return digests_of(np.frombuffer(image.content, dtype=np.uint8))[0]

    def name(self, number: int) -> str:
        """The row of an image, from 0."""
        return f"row {int(self.rows[number])}"

    def take(self, numbers: np.ndarray) -> TableImages:
        """The images with these numbers, in this order."""
        return TableImages(self.table, self.column, self.where, self.rows[numbers], self.stamps)

    def stamp(self, _: range) -> None:
        """It is not known what of a table has changed."""
        return None


def _stamp(file: Path, root: Path) -> list[Any]:
    try:
        return list(file_stamp([file.absolute()], root))
    except InputError:  # it says so where the image is needed
        return [file.absolute().relative_to(root).as_posix(), "unreadable"]
