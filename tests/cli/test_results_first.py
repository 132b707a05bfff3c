"""Results are on the disk before anything is shown, so that a terminal that goes away costs none."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from decompose_cli.cli.app import app

pytestmark = pytest.mark.usefixtures("warm")

# What shows the result of a command, and not more work than it takes to see all of it.
COMMANDS = {
    "validate": ("cli.tables.basics.show_validation", []),
    "extract-indices": ("cli.tables.basics.show_indices", []),
    "mutual-info": ("cli.tables.studies.show_overlap", []),
    "essential": ("cli.tables.studies.show_essentiality", ["--repeats", "2", "--controls", "2"]),
    "selectivity": ("cli.tables.studies.show_selectivity", ["--layers", "layer3.2", "--split", "test"]),
    "sweep": ("cli.tables.studies.show_sweep", ["--ks", "1-3", "--methods", "weight", "--max-drop", "5"]),
}
ERRORS: list[BaseException] = [
    BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)),
    OSError(errno.EIO, os.strerror(errno.EIO)),  # of a terminal that is closed
    KeyboardInterrupt(),
]
command_line = pytest.mark.parametrize("command", COMMANDS)


def arguments_of(command: str) -> list[str]:
    return [command, *COMMANDS[command][1]]


@pytest.fixture(autouse=True)
def stdout_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a broken pipe stdout is replaced, and what the runner would read is closed with it."""
    monkeypatch.setattr("decompose_cli.cli.options.shared.discard_stdout", lambda: None)


def failing(error: BaseException) -> Callable[..., None]:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def check(documents: list[Path], command: str) -> None:
    """One of these is the result document, whole; the index files beside it can be read too."""
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in documents if path.suffix == ".json"]
    (document,) = [content for content in contents if content.get("command") == command]
    assert document["results"]


@command_line
@pytest.mark.parametrize("error", ERRORS, ids=["broken pipe", "EIO", "Ctrl-C"])
@pytest.mark.parametrize("named", [False, True], ids=["usual name", "--output"])
def test_a_result_that_cannot_be_shown_is_kept(
    command: str, error: BaseException, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = "folder" if command == "sweep" else "file.json"
    monkeypatch.setattr(f"decompose_cli.{COMMANDS[command][0]}", failing(error))
    result = CliRunner().invoke(app, [*arguments_of(command), *(["-o", output] if named else [])])
    assert result.exit_code == (130 if isinstance(error, KeyboardInterrupt) else 1)
    check(files_below(Path.cwd()), command)
    assert "Result written" not in result.stderr


@command_line
def test_a_terminal_that_breaks_while_tables_are_printed_costs_no_file(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert CliRunner().invoke(app, [*arguments_of(command), "-o", "whole"]).exit_code == 0
    monkeypatch.setattr("decompose_cli.cli.console.Terminal.print", failing(OSError(errno.EIO, os.strerror(errno.EIO))))
    assert CliRunner().invoke(app, [*arguments_of(command), "-o", "broken"]).exit_code == 1
    files = [path.relative_to(Path.cwd()).as_posix() for path in files_below(Path.cwd())]
    assert [name for name in files if name.startswith("broken")] == [
        name.replace("whole", "broken") for name in files if name.startswith("whole")
    ]


@command_line
@pytest.mark.parametrize("error", ERRORS[:2], ids=["broken pipe", "EIO"])
def test_a_document_that_goes_to_stdout_is_printed_where_the_tables_cannot_be(
    command: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"decompose_cli.{COMMANDS[command][0]}", failing(error))
    result = CliRunner().invoke(app, [*arguments_of(command), "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["command"] == command
    assert not files_below(Path.cwd())


# A pipe whose reader is gone by the time that the tables are shown.
CLOSING = """
import os, sys
from decompose_cli.cli.tables import basics as display
from decompose_cli.cli.app import main

show = display.show_validation

def show_to_nobody(*arguments):
    os.close({reading})
    show(*arguments)

display.show_validation = show_to_nobody
sys.argv = ["decompose", "validate", "-o", "v.json"]
main()
"""


def test_a_pipe_that_is_closed_while_the_command_runs_costs_no_result() -> None:
    reading, writing = os.pipe()
    os.set_inheritable(reading, True)
    process = subprocess.Popen(
        [sys.executable, "-c", CLOSING.format(reading=reading)], stderr=writing, pass_fds=[reading]
    )
    os.close(reading)
    os.close(writing)
    assert process.wait(timeout=60) == 1
    check([Path("v.json")], "validate")
