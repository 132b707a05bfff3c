"""Files that say which class of a data set is which class of a network."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from decompose_cli.errors import InputError, param
from decompose_cli.storage.text_files import read_json, read_text

_WHAT = "The class map"
_COLUMNS = 2
_MOST_LINES, _MOST_BYTES = 1 << 20, 1 << 26
_MARKS = ",;\t"
"""What may part the two values: spreadsheets of many countries write no comma."""


def read_class_map(path: Path) -> dict[str, str | int]:
    """Read a file of a data set's classes, and the network's class that each one is.

    A ``.json`` file holds an object: ``{"tench": "n01440764", "my cat": "tabby", "dog": 207}``. Every other file holds
    lines of two values that a comma parts (or in all lines a semicolon or a tab): the data set's class, and the
    network's; a first line ``dataset,network`` is a heading.

    Returns:
        By name of the data set's class, the name, id or number of the network's.

    Raises:
        InputError: The file is missing, is of another form, or says two things of a class.
    """
    pairs = _of_json(path) if path.suffix.lower() == ".json" else _of_lines(path)
    found: dict[str, str | int] = {}
    for name, wanted in pairs:
        if found.setdefault(name, wanted) != wanted:
            raise InputError(f"{_WHAT} {path} gives {name!r} two classes: {found[name]} and {wanted}.")
    if not found:
        raise InputError(f"{_WHAT} {path} names no class.")
    return found


def _of_json(path: Path) -> list[tuple[str, str | int]]:
    content = read_json(path, _WHAT)
    if not isinstance(content, dict):
        raise InputError(f'{_WHAT} {path} is no object such as {{"my cat": "tabby"}}.')
    for name, wanted in content.items():
        if isinstance(wanted, bool) or not isinstance(wanted, str | int):
            raise InputError(
                f"{_WHAT} {path} gives {name!r} neither a name nor a number, but {json.dumps(wanted)[:40]}."
            )
    return list(content.items())


def _of_lines(path: Path) -> list[tuple[str, str | int]]:
    text = read_text(path, _WHAT, most=_MOST_BYTES).removeprefix("\ufeff")  # which spreadsheets write
    if (lines := text.count("\n")) > _MOST_LINES:
        raise InputError(f"{_WHAT} {path} has {lines:,} lines, and no network has more than {_MOST_LINES:,} classes.")
    rows = next((table for mark in _MARKS if (table := _pairs(text, mark)) is not None), None)
    try:
        rows = _table(text, _MARKS[0]) if rows is None else rows
    except csv.Error as error:
        raise InputError(f"{_WHAT} {path} is no table: {error}.") from error
    if rows and [cell.casefold() for cell in rows[0]] == ["dataset", "network"]:
        rows = rows[1:]
    for row in rows:
        if len(row) != _COLUMNS or not all(row):
            raise InputError(
                f"{_WHAT} {path} has the line {','.join(row)[:60]!r}, which is not two values: the data set's class "
                "and the network's.",
                hint=f"A file for {param('class_map')} has lines such as 'my cat,tabby', or is a .json file.",
            )
    return [(row[0], row[1]) for row in rows]


def _pairs(text: str, mark: str) -> list[list[str]] | None:
    """The lines of a text, if a mark parts each into two values."""
    try:
        rows = _table(text, mark)
    except csv.Error:
        return None
    return rows if all(len(row) == _COLUMNS for row in rows) else None


def _table(text: str, mark: str) -> list[list[str]]:
    lines = csv.reader(io.StringIO(text), delimiter=mark, strict=True)
    return [[cell.strip() for cell in row] for row in lines if row]
