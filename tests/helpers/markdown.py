"""Tables in Markdown files."""

from __future__ import annotations


def table_after(text: str, mark: str) -> list[list[str]]:
    """The cells of the rows of the first table that comes after this text or with it, without its head."""
    lines = text[text.index(mark) :].splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows
