"""Results are on the disk before anything is shown, so that a terminal that goes away costs none."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from helpers.command_line import FAILED, INTERRUPTED, content, files_below, invoke, run

pytestmark = pytest.mark.usefixtures("warm")

# Not more work than it takes to see all of a command.
COMMANDS = {
    "validate": [],
    "extract-indices": [],
    "mutual-info": [],
    "essential": ["--repeats", "2", "--controls", "2"],
    "selectivity": ["--layers", "layer3.2", "--dataset", "{few}"],
    "sweep": ["--ks", "1-3", "--methods", "weight", "--max-drop", "5"],
}
CLOSED = OSError(errno.EIO, os.strerror(errno.EIO))  # of a terminal that is closed
BROKEN = BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
# What the error is makes a difference in one place for all commands.
CASES = [*((command, CLOSED) for command in COMMANDS), ("validate", BROKEN), ("validate", KeyboardInterrupt())]
each_command = pytest.mark.parametrize(
    ("command", "error"), CASES, ids=[f"{command}-{type(error).__name__}" for command, error in CASES]
)


@pytest.fixture
def arguments(command: str, few: str) -> list[str]:
    return [command, *(argument.format(few=few) for argument in COMMANDS[command])]


def check(files: list[str], command: str) -> None:
    """One of these is the result document, whole; the index files beside it can be read too."""
    contents = [content(file) for file in files if file.endswith(".json")]
    (document,) = [found for found in contents if found.get("command") == command]
    assert document["results"]


@each_command
@pytest.mark.parametrize("named", [False, True], ids=["usual name", "--output"])
def test_a_result_that_cannot_be_shown_is_kept(
    command: str, arguments: list[str], error: BaseException, named: bool, break_tables: Callable[..., None]
) -> None:
    ending = "" if command == "sweep" else ".json"  # which makes a folder
    run(*arguments, *(["-o", f"whole{ending}"] if named else []))
    whole = files_below()
    break_tables(error)
    failed = invoke(*arguments, *(["-o", f"broken{ending}"] if named else []))
    assert failed.exit_code == (INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED)
    assert "Result written" not in failed.stderr
    kept = [file for file in files_below() if file not in whole]
    check(kept, command)
    assert len(kept) == len(whole)
    assert [file for file in kept if file.startswith("broken")] == [
        file.replace("whole", "broken") for file in whole if file.startswith("whole")
    ]


@each_command
def test_a_document_that_goes_to_stdout_is_printed_where_the_tables_cannot_be(
    command: str, arguments: list[str], error: BaseException, break_tables: Callable[..., None]
) -> None:
    break_tables(error)
    failed = invoke(*arguments, "--json")
    assert failed.exit_code == (INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED)
    assert json.loads(failed.stdout)["command"] == command
    assert not files_below()


# A pipe whose reader is gone by the time that the tables are shown.
CLOSING = """
import os, sys
from rich.console import Console
from rich.table import Table
from decompose_cli.cli.app import main

show, is_open = Console.print, [{reading}]

def show_to_nobody(self, *values, **how):
    if is_open and any(isinstance(value, Table) for value in values):
        os.close(is_open.pop())
    show(self, *values, **how)

Console.print = show_to_nobody
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
    assert process.wait(timeout=60) == FAILED
    check(["v.json"], "validate")
