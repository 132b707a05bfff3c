"""``decompose filters``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

from decompose_cli.cli.console import Terminal, make_table
from decompose_cli.cli.options.binding import command
from decompose_cli.cli.options.declaration import option
from decompose_cli.cli.options.rankings import FILTERS_OF_CLASSES, FILTERS_PER_CLASS
from decompose_cli.cli.output import RESULT, Output, in_folder, present
from decompose_cli.errors import InputError, first_few, param
from decompose_cli.features.inputs import Inputs
from decompose_cli.printable import counted

if TYPE_CHECKING:
    from decompose_cli.engines.filters import FiltersResults
    from decompose_cli.storage.result_document import ResultDocument

_MOST_ROWS, _MOST_NAMED = 40, 10


@command()
def filters(
    inputs: Inputs,
    out: Output,
    class_name: Annotated[
        Optional[str], option("--class", metavar="NAME", help="The class, by name or number.")
    ] = None,
    indices: FILTERS_OF_CLASSES = None,
    k: FILTERS_PER_CLASS = None,
    images: Annotated[int, option("--images", metavar="N", help="Images a filter, 1 to 16.", show_default=True)] = 8,
) -> None:
    """Show what the filters of a class respond to: the test images with their highest values, and who shares them.

    Writes filters.png, with the 40 strongest, and result.json into a folder: --output, or a new one in results/.

    Example: decompose filters resnet20 --class cat -i indices.json
    """
    from decompose_cli.engines.filters import SHEET, FiltersSettings
    from decompose_cli.engines.filters import filters as run

    if class_name is None:
        raise InputError(f"Name the class with {param('class')} NAME.")
    settings = FiltersSettings(class_name, indices, k, images)

    def work(folder: Path | None) -> None:
        document = run(inputs, settings, folder=folder)
        written = f"Written to {folder}: {SHEET}, {RESULT}" if folder is not None else None
        present(out, document, lambda: show_filters(out.terminal, document), written=written)

    in_folder(out, "filters", inputs, (SHEET, RESULT), work)


def show_filters(terminal: Terminal, document: ResultDocument[FiltersResults]) -> None:
    """Show each filter of a class: weight, values, classes that share it, and classes of its strongest images."""
    results = document.results
    rows = []
    for info in results.filters[:_MOST_ROWS]:
        means = ["" if mean is None else f"{mean:.3f}" for mean in (info.mean, info.mean_elsewhere)]
        shared = first_few(info.shared_with, _MOST_NAMED) or "none"
        strongest = f"{info.of_class} of {len(info.images)}"
        gain = "" if info.contribution is None else f"{info.contribution:+.3f}"
        weight = "" if info.weight is None else f"{info.weight:+.3f}"
        rows.append([str(info.rank), str(info.feature), weight, *means, gain, strongest, shared])
    terminal.title(f"Filters of {results.class_name}")
    columns = ["Rank", "Filter", "Weight", "Mean", "Elsewhere", "Weight x mean", "Strongest of class", "Shared with"]
    terminal.print(make_table(columns, rows, left=0))
    more = len(results.filters) - len(rows)
    if more > 0:
        terminal.print(f"The result document has {counted(more, 'more filter')}, weaker than these.")
    terminal.print("Mean: the feature's mean over the images of the class; elsewhere: its mean over all other images.")
