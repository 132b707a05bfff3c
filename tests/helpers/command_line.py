"""The program as it is typed, called in this process, and what its calls say and leave."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typer.main import get_command
from typer.testing import CliRunner, Result

from decompose_cli.cli.app import app

FAILED, REFUSED, INTERRUPTED = 1, 2, 130
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]
LEFTOVERS = ("*.tmp", "*.part", ".unpacking-*")


def invoke(*arguments: str) -> Result:
    """Call the program."""
    return CliRunner().invoke(app, list(arguments))


def run(*arguments: str, code: int = 0) -> Result:
    """Call the program, which must end with this code and without a traceback."""
    result = invoke(*arguments)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    assert "unforeseen" not in result.output
    return result


def document_of(*arguments: str) -> dict[str, Any]:
    """What a call with ``--json`` prints."""
    document: dict[str, Any] = json.loads(run(*arguments, "--json").stdout)
    return document


def refused(arguments: Sequence[str], code: int, *fragments: str, keeps: bool = True) -> str:
    """Call the program, which must fail as documented and leave nothing behind; returns what it said.

    One sentence has to hold all fragments; at most a hint follows it. Nothing goes to stdout.

    Args:
        arguments: Of the program.
        code: The exit code.
        fragments: Parts of the sentence.
        keeps: Whether the working directory, and a folder ``inputs`` beside it, must stay as they are.
    """
    places = (Path.cwd(), Path.cwd().parent / "inputs")
    before = snapshot(*places) if keeps else {}
    result = invoke(*arguments)
    said = result.stderr
    assert result.exit_code == code, said
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.stdout == ""
    assert "Traceback" not in said
    assert "unforeseen" not in said
    error = only_error(said)
    assert all(fragment in error for fragment in fragments), said
    assert said.splitlines().index(f"Error: {error}") >= len(said.splitlines()) - 2, (
        f"more than a hint follows:\n{said}"
    )
    if keeps:
        assert snapshot(*places) == before, "files were left behind or changed"
    for folder in (*places, Path(os.environ["DECOMPOSE_CACHE"])):
        assert not [path for path in folder.rglob("*") if any(path.match(pattern) for pattern in LEFTOVERS)]
    return said


def sentence_of(arguments: Sequence[str], code: int = REFUSED) -> str:
    """What a command says that must fail as :func:`refused` has it."""
    return only_error(refused(arguments, code))


def usage_error(arguments: Sequence[str], *fragments: str) -> None:
    """Call the program, whose parser must refuse: in its own words, and as silent on stdout as everything else."""
    before = snapshot(Path.cwd())
    result = invoke(*arguments)
    assert result.exit_code == REFUSED, result.output
    assert result.stdout == ""
    said = " ".join(re.sub(r"[│╭╮╰╯─]", " ", result.stderr).split())
    assert all(fragment in said for fragment in fragments), said
    assert said.count("Error") == 1
    assert "Traceback" not in said
    assert snapshot(Path.cwd()) == before


def errors_in(text: str) -> list[str]:
    """The sentences after ``Error:``."""
    return [line.removeprefix("Error: ") for line in text.splitlines() if line.startswith("Error: ")]


def only_error(text: str) -> str:
    """The one sentence after ``Error:``."""
    errors = errors_in(text)
    assert len(errors) == 1, text
    return errors[0]


def warnings_in(text: str) -> list[str]:
    """The sentences after ``Warning:``."""
    return [line.removeprefix("Warning: ") for line in text.splitlines() if line.startswith("Warning: ")]


def row_of(text: str, first: str) -> list[str]:
    """The cells of the one row that begins with this cell, of the tables in this text."""
    (line,) = [line for line in text.splitlines() if re.match(rf"\s*{re.escape(first)}(\s{{2,}}|$)", line)]
    return re.split(r"\s{2,}", line.strip())


def content(path: str | Path) -> dict[str, Any]:
    """Of a JSON file."""
    document: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return document


def files_below(folder: str | Path = ".") -> list[str]:
    """Paths of all files, relative to the folder."""
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def names_in(folder: str | Path) -> list[str]:
    """Of files and folders."""
    return sorted(path.name for path in Path(folder).iterdir())


def snapshot(*folders: Path) -> dict[str, tuple[int, str]]:
    """Modification time and content of every file, and which folders there are."""
    found = {}
    for root in folders:
        for path in sorted(root.rglob("*")):
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
            found[str(path)] = (path.lstat().st_mtime_ns if path.is_file() else 0, content)
    return found
