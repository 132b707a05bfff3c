"""Index sets as objects: made of what a program has, read and written."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from pathlib import Path

from decompose_cli.decomposition.index_set import IndexSet, index_set_text
from decompose_cli.decomposition.index_set import read_index_set as read_file
from decompose_cli.errors import InputError, first_line, param, shortened
from decompose_cli.storage.files import check_writable, user_path, write_text

Indices = IndexSet | str | Path | Mapping[int, Sequence[int]] | Sequence[Sequence[int]]
"""An index set, a file with one, or feature numbers by class number: a mapping, or a row for each class."""


def index_set_of(indices: Indices, num_classes: int, num_features: int) -> IndexSet:
    """The index set, in whatever form it was given.

    Raises:
        InputError: The indices cannot be read, or are not those of every class.
    """
    if isinstance(indices, IndexSet):
        return indices
    if isinstance(indices, (str, Path)):
        return read_index_set(user_path(indices))
    if not isinstance(indices, Mapping):
        if not hasattr(indices, "__getitem__"):  # a set, say, has no order
            shown = shortened(repr(indices))
            raise InputError(
                f"{param('indices')} {shown} is no index set, no file, and no feature numbers by class number."
            )
        indices = dict(enumerate(indices))
    if set(indices) != set(range(num_classes)):
        raise InputError(f"Feature numbers are needed of the classes 0 to {num_classes - 1}, and of no others.")
    try:
        rows = tuple(tuple(map(operator.index, indices[number])) for number in range(num_classes))
    except TypeError as error:
        raise InputError(f"Feature numbers are whole numbers: {first_line(error)}.") from error
    return IndexSet(rows, num_features)


def write_index_set(index_set: IndexSet, path: str | Path, *, document: bool = False, overwrite: bool = False) -> None:
    """Write an index file, which every command takes with ``-i``.

    Args:
        index_set: The features that each class keeps.
        path: The file.
        document: Whether to write the layout with D and provenance instead of the published one.
        overwrite: Whether an existing file may be replaced.

    Raises:
        InputError: The path cannot be used.
        DecomposeError: The file cannot be written; nothing is left behind.
    """
    target = user_path(path)
    check_writable(target, overwrite=overwrite)
    write_text(target, index_set_text(index_set, document=document))


def read_index_set(path: str | Path) -> IndexSet:
    """Read an index file of any layout: published, with provenance, or the result of ``extract-indices``.

    Raises:
        InputError: The file is missing, or is no index file.
    """
    return read_file(user_path(path))
