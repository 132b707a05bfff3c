"""``decompose filters``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

from decompose_cli.cli.console import Terminal, make_table
from decompose_cli.cli.options.binding import command
from decompose_cli.cli.options.declaration import option
from decompose_cli.cli.options.rankings import FILTERS_OF_CLASSES, FILTERS_PER_CLASS
from decompose_cli.cli.output import Output, in_folder, present
from decompose_cli.errors import InputError, first_few, param
from decompose_cli.features.inputs import Inputs
from decompose_cli.printable import counted
from decompose_cli.storage.names import RESULT

if TYPE_CHECKING:
    from decompose_cli.decomposition.beside import Beside
    from decompose_cli.engines.filters import FiltersResults
    from decompose_cli.storage.result_document import ResultDocument

_MOST_ROWS, _MOST_NAMED, _MOST_NEAR = 40, 10, 3


@command()
def filters(
    inputs: Inputs,
    out: Output,
    class_name: Annotated[
        Optional[str], option("--class", "-c", metavar="NAME", help="The class, by name or number.")
    ] = None,
    indices: FILTERS_OF_CLASSES = None,
    k: FILTERS_PER_CLASS = None,
    images: Annotated[int, option("--images", metavar="N", help="Images a filter, 1 to 16.", show_default=True)] = 8,
    against: Annotated[
        Optional[str],
        option(
            "--against",
            metavar="NAME",
            help="Another class, by name or number, to set beside it: which features both use, which one alone, and "
            "what each gives on the images of both.",
        ),
    ] = None,
) -> None:
    """Show what the filters of a class respond to: the test images with their highest values, and who shares them.

    Writes filters.png, with the 40 strongest, and result.json into a folder: --output, or a new one in results/.

    Example: decompose filters resnet20 --class cat -i indices.json
    """
    from decompose_cli.engines.filters import SHEET, FiltersSettings
    from decompose_cli.engines.filters import filters as run

    if class_name is None:
        raise InputError(f"Name the class with {param('class')} NAME.")
    settings = FiltersSettings(class_name, indices, k, images, against)

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
    near = results.neighbours[:_MOST_NEAR]
    if near:
        said = [
            f"{one.class_name} ({one.both} in common, {one.only_first} of its own, {one.only_second} of the other)"
            for one in near
        ]
        terminal.print(f"Nearest classes: {', '.join(said)}.")
    if results.beside is not None:
        _show_beside(terminal, results.class_name, results.beside)


def _show_beside(terminal: Terminal, name: str, found: Beside) -> None:
    """Show two classes beside each other, the features that tell them apart best first."""
    other = found.class_name
    terminal.title(
        f"{name} beside {other}: {found.both} in common, {found.only_first} of {name} alone, {found.only_second} of "
        f"{other} alone"
    )
    who = {"both": "both", "first": name, "second": other}
    rows = [
        [
            str(one.feature),
            who[one.used_by],
            *(_number(value) for value in (one.to_first.first, one.to_first.second)),
            *(_number(value) for value in (one.to_second.first, one.to_second.second, one.apart)),
        ]
        for one in found.features[:_MOST_ROWS]
    ]
    columns = ["Filter", "Used by"]
    columns += [f"to {a},\non {b}" for a in (name, other) for b in (name, other)]
    terminal.print(make_table([*columns, "Apart"], rows, left=2))
    more = len(found.features) - len(rows)
    if more > 0:
        terminal.print(f"The result document has {counted(more, 'more filter')}.")
    terminal.print(
        f"To {name}, on {other}: what the filter adds to the logit of {name}, on average over images of {other}. "
        f"Apart: how much farther the logit of {name} is above that of {other} by it on images of {name} than of "
        f"{other}."
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:+.3f}"
