"""``decompose cache``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from decompose_cli.cli.console import Terminal, make_table
from decompose_cli.cli.options.binding import command
from decompose_cli.cli.options.declaration import option
from decompose_cli.cli.output import Listing, print_json
from decompose_cli.errors import InputError, param
from decompose_cli.printable import counted

if TYPE_CHECKING:
    from decompose_cli.engines.cache import CacheStatus


@command()
def cache(
    out: Listing,
    clear: Annotated[bool, option("--clear", help="Delete what is listed.")] = False,
    older_than: Annotated[
        float | None,
        option("--older-than", metavar="DAYS", min=0, help="With --clear: delete only what is older than this."),
    ] = None,
) -> None:
    """List or clear the features that were computed before, and what is kept of tar shards and tables.

    Downloaded weights are never cleared.
    """
    from decompose_cli.engines.cache import clear_cache, list_cache

    if older_than is not None and not clear:
        raise InputError(f"{param('older_than')} has no effect without {param('clear')}; nothing is deleted.")
    if clear:
        count, size = clear_cache(older_than or 0)
        out.terminal.print(f"Deleted {counted(count, 'file')}, {size / 1e6:.1f} MB.")
        if out.json:
            print_json({"deleted": count, "bytes": size})
        return
    status = list_cache()
    show_cache(out.terminal, status)
    if out.json:
        print_json(asdict(status))


def show_cache(terminal: Terminal, status: CacheStatus) -> None:
    """Show the entries of the feature cache."""
    rows = [[entry.description, entry.made, f"{entry.size / 1e6:.2f}"] for entry in status.entries]
    terminal.title(f"Features in {status.folder}, and what is kept of data sets beside them")
    terminal.print(make_table(["What", "Made", "MB"], rows, left=2))
    terminal.print(
        f"{counted(len(rows), 'entry', 'entries')}, {sum(entry.size for entry in status.entries) / 1e6:.1f} MB"
    )
