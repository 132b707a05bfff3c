"""The table that grows, on a terminal and in a log."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Sequence

import pytest
from rich.cells import cell_len
from rich.console import Console

from decompose_cli.cli import console
from decompose_cli.cli.console import Terminal
from decompose_cli.messages import growing_table, use_reporter
from decompose_cli.training.table import COLUMNS

FIRST = ["1/2", "0.1", "2.3026", "10.00", "", "", "11.00", "1,234", "1:05"]
SECOND = ["2/2", "0.01", "12345.6789", "100.00", "0.1", "99.00", "", "5", "0:00"]


def terminal_on(stream: io.StringIO, *, is_terminal: bool, quiet: bool = False, width: int = 200) -> Terminal:
    terminal = Terminal(quiet=quiet)
    terminal.console = Console(file=stream, force_terminal=is_terminal, width=width, highlight=False, color_system=None)
    return terminal


def shown(rows: Sequence[Sequence[str]], *, is_terminal: bool, updates: Sequence[Sequence[str]] = ()) -> str:
    stream = io.StringIO()
    with use_reporter(terminal_on(stream, is_terminal=is_terminal)), growing_table(COLUMNS) as table:
        for cells in updates:
            table.update(cells)
        for cells in rows:
            table.add(cells)
    return stream.getvalue()


def plain(text: str) -> list[str]:
    """Lines without what moves the cursor."""
    return [line for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", text).split("\n") if line.strip()]


def test_plain_lines_have_columns_that_line_up() -> None:
    text = shown([FIRST, FIRST], is_terminal=False)
    assert "\x1b" not in text
    assert "\r" not in text
    header, rule, *rows = text.splitlines()
    assert header.split() == [
        "Epoch",
        "Rate",
        "Loss",
        "Train",
        "%",
        "Val",
        "loss",
        "Val",
        "%",
        "Test",
        "%",
        "Images/s",
        "Left",
    ]
    assert set(rule) == {"─", " "}
    assert [cell_len(line) for line in (header, rule, *rows)] == [cell_len(header)] * 4
    ends = [header.index(name) + len(name) for name in COLUMNS]
    for end, cell in zip(ends, FIRST, strict=True):
        assert rows[0][:end].endswith(cell or "  ")


def test_a_cell_wider_than_its_column_loses_nothing() -> None:
    assert "12345.6789" in shown([SECOND], is_terminal=False)


def test_a_terminal_gets_the_same_rows_and_one_line_that_changes() -> None:
    running = ["1/2", "0.1", "2.5", "9.00", "", "", "", "1,000", "2:00"]
    text = shown([FIRST, SECOND], is_terminal=True, updates=[running])
    lines = plain(text)
    assert [line.split()[0] for line in lines if line.split()[0] in ("1/2", "2/2")][-2:] == ["1/2", "2/2"]
    for cells in (FIRST, SECOND):
        assert any(line.split() == [cell for cell in cells if cell] for line in lines)
    assert "\x1b[" in text, "something moves"


def test_a_narrow_place_breaks_no_row() -> None:
    stream = io.StringIO()
    with use_reporter(terminal_on(stream, is_terminal=False, width=30)), growing_table(COLUMNS) as table:
        table.add(FIRST)
    assert len(stream.getvalue().splitlines()) == 3


def test_how_often_updates_are_worth_it() -> None:
    with terminal_on(io.StringIO(), is_terminal=True).table(COLUMNS) as table:
        assert table.seconds_between_updates < 1
    with terminal_on(io.StringIO(), is_terminal=False).table(COLUMNS) as table:
        assert table.seconds_between_updates >= 10, "a log is not to be filled"


def test_quiet_shows_nothing() -> None:
    stream = io.StringIO()
    with terminal_on(stream, is_terminal=True, quiet=True).table(COLUMNS) as table:
        table.update(FIRST)
        table.add(FIRST)
        assert table.seconds_between_updates == float("inf")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK"])
def test_of_several_processes_the_first_one_talks(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    from decompose_cli.errors import InputError

    for rank in ("1", "7"):
        monkeypatch.setenv(name, rank)
        stream = io.StringIO()
        terminal = terminal_on(stream, is_terminal=False)
        assert not console.is_first_process()
        terminal.note("a note")
        terminal.warn("a warning")
        terminal.error(InputError("an error", hint="a hint"))
        terminal.title("a title")
        terminal.print("a text")
        with terminal.table(COLUMNS) as table:
            table.add(FIRST)
        with terminal.track("Images", 3, "images") as advance:
            advance(3)
        assert stream.getvalue() == ""
    monkeypatch.setenv(name, "0")
    assert console.is_first_process()
    stream = io.StringIO()
    terminal_on(stream, is_terminal=False).note("a note")
    assert stream.getvalue() == "a note\n"


def test_without_a_terminal_rows_go_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="decompose_cli"), growing_table(COLUMNS) as table:
        table.update(FIRST)
        table.add(FIRST)
    assert caplog.messages == [
        "Epoch 1/2, Rate 0.1, Loss 2.3026, Train % 10.00, Test % 11.00, Images/s 1,234, Left 1:05"
    ]
