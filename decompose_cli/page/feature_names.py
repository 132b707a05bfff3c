"""Names that people give to features, so that the page has words for them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from decompose_cli.decomposition.index_set import MOST_FEATURES
from decompose_cli.errors import InputError, param, shortened
from decompose_cli.page.documents import Source
from decompose_cli.printable import printable
from decompose_cli.storage.files import user_path
from decompose_cli.storage.text_files import read_json, read_text

_WHAT = "The file of names"
_HINT = 'It is JSON such as {"3": "wheels"}, or CSV with the header feature,name.'
_COLUMNS = ["feature", "name"]
_LONGEST = 60


def read_names(given: Mapping[int, str] | str | Path | None) -> dict[int, str]:
    """The names of features, by number.

    Args:
        given: The names themselves, or a file of them that ends in ``.json`` or ``.csv``; None for no names.

    Raises:
        InputError: The file is missing, empty or of another form, a feature is no whole number or has two names, or a
            name is empty or longer than 60 letters.
    """
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return _checked(given.items(), param("names"))
    path = user_path(given)
    if path.suffix.lower() == ".json":
        content = read_json(path, _WHAT, _HINT)
        if not isinstance(content, dict):
            raise InputError(f"{_WHAT} {path} has no names by feature.", hint=_HINT)
        return _checked(content.items(), f"{_WHAT} {path}")
    if path.suffix.lower() == ".csv":
        return _checked(_rows(path), f"{_WHAT} {path}")
    raise InputError(f"{_WHAT} {path} ends neither in .json nor in .csv.", hint=_HINT)


def check_numbers(names: Mapping[int, str], sources: Iterable[Source]) -> None:
    """Refuse names of features that no network on the page has.

    Raises:
        InputError: A number is not below the number of features of any network.
    """
    counts = [source.document.model.num_features for source in sources if source.document.model is not None]
    most = max(counts, default=MOST_FEATURES)
    for number in names:
        if number >= most:
            raise InputError(
                f"{param('names')} names the feature {number}, and the network has the features 0 to {most - 1} only."
            )


def _rows(path: Path) -> Sequence[tuple[str, str]]:
    text = read_text(path, _WHAT, "a CSV text file", _HINT).removeprefix("\ufeff")  # which spreadsheets put first
    try:
        header, *rows = [row for row in csv.reader(text.splitlines(), strict=True) if row] or [[]]
    except csv.Error as error:
        raise InputError(f"{_WHAT} {path} is not valid CSV: {error}.", hint=_HINT) from error
    if [cell.strip().lower() for cell in header] != _COLUMNS:
        raise InputError(f"{_WHAT} {path} has no header feature,name.", hint=_HINT)
    for row in rows:
        if len(row) != len(_COLUMNS):
            raise InputError(f"{_WHAT} {path} has a row of {len(row)} cells, not of 2: {shortened(','.join(row))!r}.")
    return [(number, name) for number, name in rows]


def _checked(pairs: Iterable[tuple[Any, Any]], where: str) -> dict[int, str]:
    names: dict[int, str] = {}
    for key, name in pairs:
        text = str(key).strip()
        if isinstance(key, bool) or not (text.isascii() and text.isdigit()) or len(text) > len(str(MOST_FEATURES)):
            raise InputError(f"{where} names {shortened(repr(key))}, which is no number of a feature.", hint=_HINT)
        number = int(text)
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"{where} gives feature {number} no name.", hint=_HINT)
        if len(name.strip()) > _LONGEST:
            raise InputError(f"{where} gives feature {number} a name of more than {_LONGEST} letters.")
        if number in names:
            raise InputError(f"{where} names feature {number} twice.")
        names[number] = printable(name.strip())
    if not names:
        raise InputError(f"{where} has no names.", hint=_HINT)
    return names
