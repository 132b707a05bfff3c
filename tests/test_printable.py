"""Texts from anywhere as they are shown: on the terminal, in logs, in exceptions, in JSON on stdout and on pages."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.command_line import REFUSED, invoke, refused, run
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import save_file

from decompose_cli.cli.console import Terminal, make_table
from decompose_cli.cli.guard import show_traceback
from decompose_cli.cli.output import print_json
from decompose_cli.errors import InputError, param
from decompose_cli.messages import LoggingReporter, growing_table, note, track, use_reporter, warn
from decompose_cli.printable import LONGEST, printable, printable_lines

EVIL = "a\x1b[2J\x1b]0;title\x07\r\n\x9b31m\u202egnp\u2066\x7f\x00\u2028Error: b"
TAMED = r"a\x1b[2J\x1b]0;title\x07\r\n\x9b31m\u202egnp\u2066\x7f\x00\u2028Error: b"
LONG = "x" * 100_000


def commands(text: str) -> list[str]:
    """Letters that a terminal would obey, or that cannot be seen; line ends are the program's own."""
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return [letter for letter in text if letter != "\n" and unicodedata.category(letter) in kinds]


def test_control_characters_and_overrides_are_escapes() -> None:
    assert printable(EVIL) == TAMED
    assert printable(os.fsdecode(b"\xff.png")) == r"\udcff.png"


ALPHABETS = ["", "café", "žába", "日本\u3000語", "a\u00a0b", "क्\u200dष", "👩\u200d🔬", "[red] :smile:", r"\x1b"]


@pytest.mark.parametrize("text", ALPHABETS)
def test_letters_of_all_alphabets_are_left_alone(text: str) -> None:
    assert printable(text) == text
    assert printable_lines(f"{text}\n{text}") == f"{text}\n{text}"


@given(st.text(), st.integers(100, 200))
def test_whatever_the_text_it_is_one_line_without_commands(text: str, longest: int) -> None:
    shown = printable(text * 9, longest)
    assert not [letter for letter in commands(shown) if letter not in "\u200c\u200d\xad"]
    assert shown.splitlines() in ([shown], [])
    assert len(shown) <= 10 * longest + 50
    assert printable(shown, 10 * longest + 50) == shown


def test_the_middle_of_a_long_text_is_left_out() -> None:
    shown = printable(f"begin {LONG} end")
    assert shown.startswith("begin xxx")
    assert shown.endswith("xxx end")
    assert f" ... ({len(LONG) + 10 - LONGEST:,} letters left out) ... " in shown
    assert len(shown) < LONGEST + 50
    assert printable("y" * LONGEST) == "y" * LONGEST


# --- all ways to the terminal -----------------------------------------------------------------------------------------


def progress(terminal: Terminal, text: str) -> None:
    with terminal.track(text, 9, "images") as advance:
        advance(1)


SHOWS: dict[str, Callable[[Terminal, str], object]] = {
    "note": lambda terminal, text: terminal.note(text),
    "warn": lambda terminal, text: terminal.warn(text),
    "error": lambda terminal, text: terminal.error(InputError(text)),
    "hint": lambda terminal, text: terminal.error(InputError("x", hint=text)),
    "title": lambda terminal, text: terminal.title(text),
    "print": lambda terminal, text: terminal.print(text),
    "cell": lambda terminal, text: terminal.print(make_table(["A"], [[text]])),
    "number": lambda terminal, text: terminal.print(make_table(["A", "B"], [["a", text]])),
    "heading": lambda terminal, text: terminal.print(make_table([text.replace("\n", "")], [["a"]])),
    "progress": lambda terminal, text: progress(terminal, text),
}


@pytest.mark.parametrize("show", SHOWS.values(), ids=SHOWS)
@pytest.mark.parametrize("text", [EVIL, LONG, f"{EVIL}[/red] :smile: [bold]"], ids=["commands", "long", "markup"])
def test_the_terminal_shows_letters_only(
    show: Callable[[Terminal, str], object],
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("decompose_cli.cli.console._SECONDS_BETWEEN_LINES", -1)
    monkeypatch.setenv("COLUMNS", "9999")
    show(Terminal(), text)
    said = capsys.readouterr().err
    assert commands(said) == []
    assert len(said) < 30_000
    assert len(re.findall(r"^Error: ", said, re.MULTILINE)) <= 1
    assert ("xxx" if text is LONG else r"a\x1b[2J") in said
    assert "[/red]" not in text or "[/red] :smile: [bold]" in said


def test_bars_and_growing_tables_on_a_terminal_show_letters_only(own_terminal: io.StringIO) -> None:
    terminal = Terminal()
    with use_reporter(terminal):
        with track(EVIL + "[/red]", 3) as advance:
            advance(1)
        with growing_table([EVIL, "b"]) as table:
            table.update(["1", EVIL])
            table.add(["2", EVIL])
    said = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", own_terminal.getvalue())  # what Rich itself commands
    assert "title" in said
    assert [letter for letter in commands(said) if letter != "\r"] == []


@pytest.fixture
def own_terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal gets."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=200, highlight=False)
    monkeypatch.setattr("rich.console.Console", lambda **_: console)
    return stream


def test_logs_and_exceptions_hold_letters_only(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), use_reporter(LoggingReporter()):
        warn(f"{param('k')} {EVIL}")
        note(EVIL)
        with growing_table(["a"]) as table:
            table.add([EVIL])
    assert [record.getMessage() for record in caplog.records] == [f"k {TAMED}", TAMED, f"a {TAMED}"]
    error = InputError(f"{param('k')} {EVIL}", hint=EVIL)
    assert (str(error), error.message, error.hint) == (f"k {TAMED}", f"k {TAMED}", TAMED)
    assert len(str(InputError(LONG))) < LONGEST + 50


def test_tracebacks_hold_letters_only(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise ValueError(EVIL)
    except ValueError as error:
        show_traceback(type(error), error, error.__traceback__)
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert commands(said) == []
    assert r"\x1b[2J" in said


def test_json_on_stdout_means_the_same_in_letters_only(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"a": EVIL, f"{EVIL}2": [os.fsdecode(b"\xff"), "\U000e0041", "café"]}
    print_json(value)
    said = capsys.readouterr().out
    assert json.loads(said) == value
    assert commands(said) == []
    assert "café" in said


# --- where the texts come from ----------------------------------------------------------------------------------------


def index_file(folder: Path) -> list[str]:
    content = {"format": EVIL, "format_version": 1, "classes": [[1]]}
    (folder / "i.json").write_text(json.dumps(content), encoding="utf-8")
    return ["validate", "-i", str(folder / "i.json")]


def tensor_names(folder: Path) -> list[str]:
    save_file({EVIL.replace("\x00", ""): torch.zeros(1)}, folder / "w.safetensors")
    return ["validate", "resnet20-digits", "-w", str(folder / "w.safetensors")]


def description(folder: Path) -> list[str]:
    text = json.dumps({"model": EVIL, "num_classes": 10})
    save_file({"a": torch.zeros(1)}, folder / "w.safetensors", {"decompose": text})
    return ["validate", "-w", str(folder / "w.safetensors")]


def long_description(folder: Path) -> list[str]:
    text = json.dumps({"model": LONG, "num_classes": 10})
    save_file({"a": torch.zeros(1)}, folder / "w.safetensors", {"decompose": text})
    return ["validate", "-w", str(folder / "w.safetensors")]


def pickle_global(folder: Path) -> list[str]:
    file = folder / "cifar-10-batches-py" / "test_batch"
    file.parent.mkdir()
    file.write_bytes(b"\x80\x02cos\n" + EVIL.split("\n")[0].encode("latin1", "replace") + b"\n.")
    return ["validate", "--dataset", "cifar10", "--data-dir", str(folder)]


def file_name(folder: Path) -> list[str]:
    return ["validate", "-w", str(folder / EVIL.replace("\x00", ""))]


def folder_name(folder: Path) -> list[str]:
    place = folder / "images" / EVIL.replace("\x00", "") / "none"
    place.mkdir(parents=True)
    return ["validate", "--dataset", f"folder:{place}"]


def result_file(folder: Path) -> list[str]:
    (folder / "r.json").write_text(json.dumps({"schema_version": 1, "command": EVIL, "results": {}}))
    return ["report", str(folder / "r.json")]


def configuration(folder: Path) -> list[str]:
    (folder / "config.json").write_text(json.dumps({"command": EVIL}))
    return ["train", "--resume", str(folder)]


SOURCES = [
    index_file, tensor_names, description, long_description, pickle_global, file_name, folder_name, result_file,
    configuration,
]  # fmt: skip


@pytest.mark.parametrize("source", SOURCES)
def test_texts_of_files_reach_the_terminal_as_letters(source: Callable[[Path], list[str]], tmp_path: Path) -> None:
    said = refused(source(tmp_path), REFUSED)
    assert commands(said) == []
    assert len(said) < 2 * LONGEST


def test_provenance_of_an_index_file_reaches_the_terminal_as_letters(warm: None, tmp_path: Path) -> None:
    made_from = {"model": {"name": EVIL, "weights": {"sha256": EVIL}}}
    classes = [[number, number + 10] for number in range(10)]
    content = {"format": "decompose-index-set", "format_version": 1, "num_features": 64, "classes": classes}
    (tmp_path / "i.json").write_text(json.dumps({**content, "provenance": made_from}), encoding="utf-8")
    said = run("validate", "-i", str(tmp_path / "i.json")).stderr
    assert TAMED in said
    assert commands(said) == []


@pytest.mark.parametrize("source", [description, configuration])
def test_tracebacks_of_files_reach_the_terminal_as_letters(source: Callable[[Path], list[str]], tmp_path: Path) -> None:
    said = invoke(*source(tmp_path), "--debug").stderr
    assert "Traceback" in said
    assert commands(said) == []
