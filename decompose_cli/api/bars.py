"""Progress bars of Python programs: in notebooks and terminals, unless they are switched off."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from decompose_cli.messages import Advance, show_bars

_AFTER = 1.0
"""Seconds after which a bar appears; what takes less needs none."""


def progress(show: bool = True) -> None:
    """Show progress bars, or show none.

    Without a call there are bars in notebooks and in terminals, and none where the output goes elsewhere. Announcements
    go to the logger ``decompose_cli`` either way: ``logging.basicConfig(level="INFO")`` shows them.

    Args:
        show: Whether work that takes longer than a second has a bar.
    """
    show_bars(_bar if show else None)


def show_where_seen() -> None:
    """Show bars where somebody sees them."""
    in_notebook = "ipykernel" in sys.modules
    if in_notebook or (sys.stderr is not None and sys.stderr.isatty()):
        progress()


@contextmanager
def _bar(description: str, total: int | None, unit: str) -> Iterator[Advance]:
    from tqdm.auto import tqdm

    with tqdm(total=total, desc=description, unit=f" {unit}", delay=_AFTER, leave=False, dynamic_ncols=True) as bar:
        yield lambda count: bar.update(count) and None
