"""CSV files that may be opened in a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from decompose_cli.printable import printable

_LONGEST = 10_000  # longer than any path
_COMMANDS = ("=", "+", "-", "@", "\t", "\r", "\n")


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The content of a CSV file.

    A text that a spreadsheet would take for a formula, such as a class that is named ``=1+1``, gets an apostrophe
    before it; numbers, also those written as text, are left as they are. Every row is one line: control characters and
    bytes that are no text are escaped as :func:`decompose_cli.printable.printable` has them.

    Args:
        columns: Names of the columns.
        rows: Cells of each row.
    """
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(map(_harmless, columns))
    writer.writerows(map(_harmless, row) for row in rows)
    return target.getvalue()


def _harmless(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    is_command = cell.startswith(_COMMANDS) and not _is_number(cell)
    return ("'" if is_command else "") + printable(cell, _LONGEST)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text == text.strip()
