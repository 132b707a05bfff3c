"""Images that a CSV file lists: ``csv:FILE``, with a column of paths and one of labels."""

from __future__ import annotations

import csv
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from decompose_cli.datasets.folders import FolderImages
from decompose_cli.datasets.labels import Labels
from decompose_cli.datasets.listed_once import once
from decompose_cli.datasets.manifest import Manifest
from decompose_cli.datasets.paths import PathTable
from decompose_cli.datasets.patterns import files_by_split
from decompose_cli.datasets.source import Source
from decompose_cli.datasets.splits import SPLITS, in_preferred_order, split_called
from decompose_cli.errors import InputError, first_few, first_line, param, shortened
from decompose_cli.messages import note

SUFFIXES = (".csv", ".tsv")
_NAMES = {
    "image": (
        "image",
        "path",
        "file",
        "filename",
        "file_name",
        "filepath",
        "file_path",
        "image_path",
        "image_id",
        "img",
    ),
    "label": ("label", "class", "class_name", "category", "target", "labels", "y"),
    "split": ("split", "subset", "set", "partition", "fold"),
}
"""What columns are called that are found without being named, in any case of letters."""
_SEPARATORS = (",", ";", "\t")


@dataclass(frozen=True)
class _Rows:
    """Images of one split: their paths as they are written, their labels, and their lines in the file."""

    file: Path
    paths: list[str]
    labels: list[str]
    lines: list[int]

    def where(self, number: int) -> str:
        return f"line {self.lines[number]} of {self.file}"


class CsvTables:
    """The images that CSV files list: one with a column of splits, or one for each split.

    Paths are relative to the folder of their CSV file.

    Args:
        source: The file, a pattern with ``{split}``, or a folder of files.

    Raises:
        InputError: A file is missing or no table, a column is not there, or there is no row.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self._rows = once(f"csv {source.key}", source.path, lambda: _read_all(source))

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that the files have images of."""
        return in_preferred_order(self._rows)

    def open(self, split: str) -> FolderImages:
        """The images of a split.

        Raises:
            InputError: An image is not there, or a label is missing or unknown.
        """
        rows = self._rows[split]
        root = rows.file.parent
        of_training = None
        if split != "train" and "train" in self._rows:
            training = self._rows["train"]
            of_training = Labels(training.labels, training.where)
        numbers, classes = Labels(rows.labels, rows.where).numbered(
            None if of_training is None else lambda: of_training
        )
        files = once(f"csv files {split} {self.source.key}", rows.file, lambda: _listed(rows))
        first = self._rows[next(name for name in SPLITS if name in self._rows)]
        images = FolderImages(
            self.source.name, split, root, files, numbers, classes.names, classes.ids,
            reference=PathTable.of(first.file.parent, first.paths),
        )  # fmt: skip
        images.is_numbered = classes.are_numbers
        return images


def _listed(rows: _Rows) -> Manifest:
    """The images as they lie there now."""
    root, missing = rows.file.parent, []
    found: list[tuple[str, int, int, int]] = []
    for number, name in enumerate(rows.paths):
        try:
            status = os.stat(root / name)  # noqa: PTH116 - as fast as a million files need
        except OSError as error:
            missing.append((number, error.strerror or str(error)))
        else:
            if stat.S_ISREG(status.st_mode):
                found.append((name, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
            else:  # a pipe would be waited for
                missing.append((number, "it is no regular file"))
    if missing:
        number, why = missing[0]
        more = f", and so are {len(missing) - 1:,} more" if len(missing) > 1 else ""
        raise InputError(
            f"The image {rows.paths[number]!r} in {rows.where(number)} is not there ({why}){more}.",
            hint=f"Paths are relative to the folder of the file, {root.resolve()}.",
        )
    return Manifest.of(root, found)


def _read_all(source: Source) -> dict[str, _Rows]:
    found: dict[str, _Rows] = {}
    for split, files in files_by_split(source, SUFFIXES, "CSV files").items():
        if len(files) > 1:
            raise InputError(
                f"{param('dataset')} {source.name} has several files of the split {split}: {first_few(files)}.",
                hint="Name one of them, or put their rows into one file.",
            )
        for own, rows in _read(files[0], split, source).items():
            if own in found:
                raise InputError(f"{files[0]} and {found[own].file} both list images of the split {own}.")
            found[own] = rows
    return found


def _read(path: Path, split: str, source: Source) -> dict[str, _Rows]:
    """The rows of a file by split; without a column of splits, all are of ``split``."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            head = handle.readline()
            if not head:
                raise InputError(f"{path} is empty.")
            separator = max(_SEPARATORS, key=head.count)
            handle.seek(0)
            table = csv.reader(handle, delimiter=separator, strict=True)
            columns = [name.strip() for name in next(table, [])]
            places = _places(columns, path, source)
            rows = [(table.line_num, row) for row in table if any(row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no CSV file in UTF-8: {first_line(error)}.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    if not rows:
        raise InputError(f"{path} lists no images.")
    for line, row in rows:
        if len(row) != len(columns):
            raise InputError(
                f"Line {line} of {path} has {len(row)} columns, but its first line names {len(columns)}.",
                hint="A name with a separator in it is put between double quotes.",
            )
    if "split" in places and "split" not in source.columns:
        values = dict.fromkeys(row[places["split"]] for _, row in rows)
        if not any(map(split_called, values)):
            note(f"The column {columns[places.pop('split')]!r} of {path} names no splits ({first_few(values)}).")
    found: dict[str, _Rows] = {}
    for line, row in rows:
        own = split
        if "split" in places:
            own = split_called(row[places["split"]]) or ""
            if not own:
                named = row[places["split"]]
                raise InputError(
                    f"The split in line {line} of {path} is {shortened(named)!r}, which is none of train, val, test.",
                    hint=f"Take out rows of other splits, or name another column: {param('columns')} split=NAME.",
                )
        name, label = row[places["image"]].strip(), row[places["label"]].strip()
        if not name or "\0" in name:
            raise InputError(f"Line {line} of {path} names no image.")
        rows_of = found.setdefault(own, _Rows(path, [], [], []))
        rows_of.paths.append(name)
        rows_of.labels.append(label)
        rows_of.lines.append(line)
    return found


def _places(columns: Sequence[str], path: Path, source: Source) -> dict[str, int]:
    """The number of the column that holds each thing; there may be none of splits."""
    found: dict[str, int] = {}
    has = f"it has {first_few(map(repr, columns), 10)}" if any(columns) else "its first line is empty"
    for what, names in _NAMES.items():
        named = source.columns.get(what)
        if named is not None:
            if named not in columns:
                raise InputError(f"{path} has no column {named!r}, which {param('columns')} names; {has}.")
            found[what] = columns.index(named)
            continue
        there = [number for number, column in enumerate(columns) if column.casefold() in names]
        if len(there) == 1:
            found[what] = there[0]
        elif what != "split" and there:
            raise InputError(
                f"{path} has several columns that may hold the {what}: {first_few(columns[n] for n in there)}.",
                hint=f"Say which with {param('columns')} {what}=NAME.",
            )
        elif what != "split":
            raise InputError(
                f"{path} has no column that is known to hold the {what}; {has}.",
                hint=f"Say which with {param('columns')} {what}=NAME; the first line of the file names the columns.",
            )
    return found
