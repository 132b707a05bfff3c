"""Tables of command lines, a row a test.

In a line ``{m}`` is the folder of the fixture ``material``, and ``{images}`` stands for ``--dataset
folder:`` before one of its folders of images.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.command_line import run


def table(rows: list[tuple[Any, ...]]) -> Any:
    """Parametrise a test over rows whose first entry is their name."""
    names = [row[0] for row in rows]
    assert len(set(names)) == len(names), "two rows have one name"
    return [pytest.param(*row[1:], id=row[0].replace(" ", "_")) for row in rows]


def words(line: str, material: Path) -> list[str]:
    """The arguments of a row; ``''`` is the empty text."""
    line = line.replace("{images}", "--dataset folder:{m}")
    return [word.replace("{m}", str(material)).replace("''", "") for word in line.split(" ")]


def results(line: str, material: Path) -> tuple[dict[str, Any], str]:
    """What a command that works gives, and what it says; nothing in it is NaN or infinite."""
    result = run(*words(line, material), "--json")

    def refuse(constant: str) -> None:
        raise AssertionError(f"the result holds {constant}")

    found: dict[str, Any] = json.loads(result.stdout, parse_constant=refuse)["results"]
    return found, result.stderr


Rows = list[tuple[str, ...]]
"""Name, command line, parts of the sentence."""


def cases(rows: Rows) -> Any:
    """Parametrise a test with ``line`` and ``fragments``."""
    return table([(row[0], row[1], row[2:]) for row in rows])
