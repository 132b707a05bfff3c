"""Progress of long work: bars on a terminal, elsewhere lines that say how long it will take."""

from __future__ import annotations

import io
import itertools
import re
import time

import pytest
import torch
from helpers.command_line import run
from rich.console import Console

from decompose_cli.cli import console
from decompose_cli.cli.console import Terminal
from decompose_cli.features import blocks
from decompose_cli.features.blocks import in_blocks
from decompose_cli.messages import track, use_reporter


def terminal_on(stream: io.StringIO, *, is_terminal: bool) -> Terminal:
    terminal = Terminal()
    terminal.console = Console(file=stream, force_terminal=is_terminal, width=200, highlight=False, color_system=None)
    return terminal


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "1 of 4 images, about 0:01 left"),
        (20.0, "1 of 4 images, about 1:00 left"),
        (200.0, "1 of 4 images, about 10:00 left"),
        (4000.0, "1 of 4 images, about 3:20:00 left"),
    ],
)
def test_lines_say_how_long_it_will_take(monkeypatch: pytest.MonkeyPatch, seconds: float, said: str) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(console, "_SECONDS_BETWEEN_LINES", 0.0)
    stream = io.StringIO()
    with use_reporter(terminal_on(stream, is_terminal=False)), track("Work", 4) as advance:
        now += seconds
        advance(1)
    assert stream.getvalue() == f"Work: {said}\n"


def test_lines_without_a_total_promise_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_SECONDS_BETWEEN_LINES", -1.0)
    stream = io.StringIO()
    with use_reporter(terminal_on(stream, is_terminal=False)), track("Work", None) as advance:
        advance(2)
    assert stream.getvalue() == "Work: 2 images\n"


def test_a_loop_in_a_loop_has_a_bar_under_the_other() -> None:
    stream = io.StringIO()
    terminal = terminal_on(stream, is_terminal=True)
    with use_reporter(terminal), track("Outer", 2) as outer:
        with track("Inner", 3) as inner:
            inner(3)
            assert terminal._progress is not None
            assert [task.description for task in terminal._progress.tasks] == ["Outer", "Inner"]
            terminal._progress.refresh()
        outer(1)
        assert [(task.description, task.completed) for task in terminal._progress.tasks] == [("Outer", 1)]
    assert terminal._progress is None
    assert re.search(r"Outer .*\n.*Inner .*3/3", stream.getvalue())


def test_blocks_tell_their_progress_where_there_are_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_SECONDS_BETWEEN_LINES", -1.0)
    monkeypatch.setattr(blocks, "VALUES_AT_ONCE", 6)
    stream = io.StringIO()
    with use_reporter(terminal_on(stream, is_terminal=False)):
        list(in_blocks(torch.zeros(5, 3), doing="Means"))
        list(in_blocks(torch.zeros(2, 3), doing="One block"))
        list(in_blocks(torch.zeros(5, 3)))
    said = [line.partition(",")[0] for line in stream.getvalue().splitlines()]
    assert said == ["Means: 2 of 5 images", "Means: 4 of 5 images", "Means: 5 of 5 images"]


def test_lines_come_at_most_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    stream = io.StringIO()
    with use_reporter(terminal_on(stream, is_terminal=False)), track("Work", 100) as advance:
        for _ in range(100):
            now += 1.0
            advance(1)
    counts = [int(line.split()[1]) for line in stream.getvalue().splitlines()]
    assert len(counts) == 9
    assert all(later - earlier >= 10 for earlier, later in itertools.pairwise([0, *counts]))


@pytest.mark.parametrize(
    ("line", "titles"),
    [
        (["validate", "resnet8"], ["Features of few test by resnet8"]),
        (["validate", "resnet8", "--no-cache"], ["Features of few test by resnet8"]),
        (["extract-indices", "resnet8", "-k", "2"], ["Features of few train by resnet8"]),
        (["selectivity", "resnet8", "--split", "test"], ["Layers on few test by resnet8"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_lines_name_the_network_and_the_split(
    line: list[str], titles: list[str], few: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_SECONDS_BETWEEN_LINES", -1.0)
    said = run(*line, "-w", "random", "--dataset", few).stderr
    found = [text.partition(": ")[0] for text in said.splitlines() if re.search(r": \d+ of \d+ images", text)]
    assert [title for title in dict.fromkeys(found) if title != "Reading images"] == titles
