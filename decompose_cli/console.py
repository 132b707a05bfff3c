"""What a person sees: everything on stderr, so that stdout stays free for ``--json``."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from decompose_cli.errors import DecomposeError
from decompose_cli.progress import Advance

if TYPE_CHECKING:
    from rich.console import Console

_SECONDS_BETWEEN_LINES = 5.0
_WIDTH_OF_FILES = 130
_WIDEST = 1000


class Terminal:
    """Announcements, progress and tables on stderr; a :class:`decompose_cli.progress.Reporter`.

    Args:
        quiet: Show warnings and errors only.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        from rich.console import Console

        self.quiet = quiet
        self._noted: set[str] = set()
        width = None if sys.stderr.isatty() or "COLUMNS" in os.environ else _WIDTH_OF_FILES
        self.console: Console = Console(stderr=True, highlight=False, width=width)

    def note(self, message: str) -> None:
        """Say something that may be left out, once."""
        if not self.quiet and message not in self._noted:
            self._noted.add(message)
            self._line(message)

    def warn(self, message: str) -> None:
        """Say something that must not be missed, once."""
        if message not in self._noted:
            self._noted.add(message)
            self._line("Warning: ", message, style="yellow")

    def error(self, error: DecomposeError) -> None:
        """Show an expected error: its sentence, and what to do next."""
        self._line("Error: ", error.message, style="bold red")
        if error.hint:
            self._line("Hint: ", error.hint, style="cyan")

    def print(self, *values: Any) -> None:
        """Show text or tables."""
        if self.quiet:
            return
        if all(isinstance(value, str) for value in values):
            self.console.print(*values, soft_wrap=True)
            return
        for value in values:
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

    def _line(self, start: str, rest: str = "", style: str = "", rest_style: str = "") -> None:
        from rich.text import Text

        self.console.print(Text.assemble((start, style), (rest, rest_style)), soft_wrap=True)

    @contextmanager
    def track(self, description: str, total: int | None, unit: str) -> Iterator[Advance]:
        """A progress bar on a terminal; elsewhere a line every few seconds, so that logs stay readable."""
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

        count = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
        columns = (TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn())
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(description, total=total)
            yield lambda done: progress.advance(task, done)

    def _lines(self, description: str, total: int | None, unit: str) -> Advance:
        state = {"done": 0, "last": time.monotonic()}

        def advance(done: int) -> None:
            state["done"] += done
            if time.monotonic() - state["last"] > _SECONDS_BETWEEN_LINES:
                state["last"] = time.monotonic()
                of = f" of {total:,}" if total else ""
                self._line(f"{description}: {state['done']:,}{of} {unit}")

        return advance


def make_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> Any:
    """A plain table: the first ``left`` columns flush left, the others (numbers) flush right."""
    from rich.box import SIMPLE_HEAD
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
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
