"""``decompose datasets``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

from decompose_cli.cli.console import Terminal, make_table
from decompose_cli.cli.options.binding import command
from decompose_cli.cli.options.declaration import option
from decompose_cli.cli.output import Listing, print_json
from decompose_cli.datasets.kinds import KINDS

if TYPE_CHECKING:
    from decompose_cli.engines.datasets import DatasetStatus


@command()
def datasets(
    out: Listing,
    data_dir: Annotated[
        Optional[Path],
        option("--data-dir", metavar="DIR", help="Where data sets are kept. Default: $DECOMPOSE_DATA, else data/."),
    ] = None,
) -> None:
    """List the data sets: which are there, where decompose looked, and how to get the others."""
    from decompose_cli.engines.datasets import list_datasets

    listed = list_datasets(data_dir)
    show_datasets(out.terminal, listed)
    if out.json:
        print_json([asdict(status) for status in listed])


def show_datasets(terminal: Terminal, statuses: Sequence[DatasetStatus]) -> None:
    """Show which data sets are there."""
    rows = [[s.name, str(s.num_classes), ", ".join(s.splits), s.found or "not there", s.description] for s in statuses]
    terminal.title("Data sets")
    terminal.print(make_table(["Name", "Classes", "Splits", "Where", "What"], rows, left=5))
    for status in statuses:
        if status.found is None:
            terminal.print(f"{status.name}: looked for {', '.join(status.looked)}; {status.how_to_get}.")
    terminal.print(make_table(["Also", "What"], [[kind.usage, kind.description] for kind in KINDS.values()], left=2))
