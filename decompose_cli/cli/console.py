"""What a person sees: everything on stderr, so that stdout stays free for ``--json``."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from decompose_cli.cli.flags import with_flags
from decompose_cli.errors import DecomposeError, InputError
from decompose_cli.messages import Advance, EpochTable, clock
from decompose_cli.printable import LONGEST_CELL, printable, printable_lines
from decompose_cli.processes.cluster import rank_here

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.progress import Progress

_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_ROWS = 30.0
_NARROWEST_CELL = 7
_WIDTH_OF_FILES = 130
_WIDEST = 1000


class Terminal:
    """Announcements, progress and tables on stderr; a :class:`decompose_cli.messages.Reporter`.

    Texts are shown as :func:`decompose_cli.printable.printable` has them: what they hold may come from anywhere.

    Args:
        quiet: Show warnings and errors only.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        from rich.console import Console

        # Only the first process of a distributed run talks.
        self._is_silent = not is_first_process()
        self.quiet = quiet or self._is_silent
        self._noted: set[str] = set()
        self._progress: Progress | None = None  # the bars that are drawn now
        width = None if sys.stderr.isatty() or "COLUMNS" in os.environ else _WIDTH_OF_FILES
        self.console: Console = Console(stderr=True, highlight=False, width=width)

    def note(self, message: str) -> None:
        """Say something that may be left out, once."""
        if not self.quiet and message not in self._noted:
            self._noted.add(message)
            self._line("", with_flags(message))

    def warn(self, message: str) -> None:
        """Say something that must not be missed, once."""
        if message not in self._noted:
            self._noted.add(message)
            self._line("Warning: ", with_flags(message), style="yellow")

    def error(self, error: DecomposeError) -> None:
        """Show an expected error: its sentence, and what to do next."""
        self._line("Error: ", with_flags(error.sentence), style="bold red")
        if error.advice:
            self._line("Hint: ", with_flags(error.advice), style="cyan")

    def print(self, *values: Any) -> None:
        """Show lines of text, or tables."""
        if self.quiet:
            return
        for value in values:
            if isinstance(value, str):
                self._line("", value)
                continue
            # A table whose numbers need more than the terminal has keeps its width: lines break, but nothing is lost.
            options = self.console.options.update(max_width=_WIDEST)
            needed = self.console.measure(value, options=options).minimum
            if needed <= self.console.width:
                self.console.print(value)
            else:
                type(self.console)(stderr=True, highlight=False, width=needed).print(value)

    def title(self, text: str) -> None:
        """Show the heading of what follows."""
        if not self.quiet:
            self.console.print()
            self._line("", text, style="bold", rest_style="bold")

    def _line(self, start: str, rest: str, style: str = "", rest_style: str = "") -> None:
        from rich.text import Text

        if self._is_silent:
            return
        self.console.print(Text.assemble((start, style), (printable(rest), rest_style)), soft_wrap=True)

    @contextmanager
    def track(self, description: str, total: int | None, unit: str) -> Iterator[Advance]:
        """Show a progress bar on a terminal; elsewhere a line every few seconds, so that logs stay readable."""
        if self.quiet:
            yield lambda _: None
        elif self.console.is_terminal:
            with self._bar(description, total, unit) as advance:
                yield advance
        else:
            yield self._lines(description, total, unit)

    @contextmanager
    def _bar(self, description: str, total: int | None, unit: str) -> Iterator[Advance]:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        if (outer := self._progress) is not None:  # a loop in a loop: one bar under the other
            task = outer.add_task(printable(description), total=total)
            try:
                yield lambda done: outer.advance(task, done)
            finally:
                outer.remove_task(task)
            return
        count = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), count, TimeRemainingColumn())
        with Progress(*columns, console=self.console, transient=True) as progress:
            task, self._progress = progress.add_task(printable(description), total=total), progress
            try:
                yield lambda done: progress.advance(task, done)
            finally:
                self._progress = None

    @contextmanager
    def table(self, columns: Sequence[str]) -> Iterator[EpochTable]:
        """Show a table that grows: on a terminal with a row that changes under it, elsewhere one plain line a row."""
        if self.quiet:
            yield _HiddenRows()
        elif self.console.is_terminal:
            from rich.live import Live

            with Live(console=self.console, transient=True, refresh_per_second=4) as live:
                yield _Rows(self.console, columns, live)
        else:
            yield _Rows(self.console, columns, None)

    def _lines(self, description: str, total: int | None, unit: str) -> Advance:
        start = last = time.monotonic()
        finished = 0

        def advance(done: int) -> None:
            nonlocal last, finished
            finished += done
            now = time.monotonic()
            if now - last > _SECONDS_BETWEEN_LINES:
                last = now
                of = f" of {total:,}" if total else ""
                left = ""
                if total is not None and 0 < finished < total:
                    left = f", about {clock((now - start) * (total / finished - 1))} left"
                self._line("", f"{description}: {finished:,}{of} {unit}{left}")

        return advance


def is_first_process() -> bool:
    """Whether this process was started alone, or is the first of those that a launcher has started."""
    try:
        return rank_here() == 0
    except InputError:  # said where processes are started
        return True


class _HiddenRows:
    seconds_between_updates = float("inf")

    def update(self, cells: Sequence[str]) -> None:
        pass

    def add(self, cells: Sequence[str]) -> None:
        pass


class _Rows:
    """Rows of fixed width, so that each row can be printed before the next is known."""

    def __init__(self, console: Console, columns: Sequence[str], live: Live | None) -> None:
        self._console, self._columns, self._live = console, columns, live
        self.seconds_between_updates = 0.25 if live else _SECONDS_BETWEEN_ROWS
        self._print([*columns], style="bold")
        self._print(["─" * self._width(column) for column in columns], style="dim")

    @staticmethod
    def _width(column: str) -> int:
        return max(len(column), _NARROWEST_CELL)

    def _row(self, cells: Sequence[str], style: str = "") -> Any:
        from rich.text import Text

        cells = [printable(cell, LONGEST_CELL) for cell in cells]
        padded = (cell.rjust(self._width(column)) for cell, column in zip(cells, self._columns, strict=True))
        return Text("  ".join(padded).rstrip(), style=style, no_wrap=True)

    def _print(self, cells: Sequence[str], style: str = "") -> None:
        self._console.print(self._row(cells, style), soft_wrap=True)

    def update(self, cells: Sequence[str]) -> None:
        if self._live is None:
            self._print(cells)
        else:
            self._live.update(self._row(cells, "dim"))

    def add(self, cells: Sequence[str]) -> None:
        self._print(cells)
        if self._live is not None:
            self._live.update("")


def make_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> Any:
    """A plain table: the first ``left`` columns flush left, the others (numbers) flush right."""
    from rich.box import SIMPLE_HEAD
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    columns = [printable_lines(column, LONGEST_CELL) for column in columns]
    rows = [[printable(cell, LONGEST_CELL) for cell in row] for row in rows]
    for number, column in enumerate(columns):
        is_number = number >= left
        no_wrap = is_number or number == 0
        texts = [line for text in (column, *(row[number] for row in rows)) for line in text.splitlines()]
        table.add_column(
            Text(column),
            justify="right" if is_number else "left",
            overflow="fold",
            no_wrap=no_wrap,
            min_width=max(map(cell_len, texts), default=1) if no_wrap else None,
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
