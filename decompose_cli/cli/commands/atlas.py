"""``decompose atlas``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

from decompose_cli.cli.console import Terminal, make_table
from decompose_cli.cli.options.binding import command
from decompose_cli.cli.options.declaration import option
from decompose_cli.cli.options.rankings import FILTERS_OF_CLASSES, FILTERS_PER_CLASS
from decompose_cli.cli.output import Output, in_folder, present
from decompose_cli.errors import first_few
from decompose_cli.features.inputs import Inputs
from decompose_cli.printable import counted
from decompose_cli.storage.names import RESULT

if TYPE_CHECKING:
    from decompose_cli.decomposition.atlas_results import AtlasFeature, AtlasResults
    from decompose_cli.storage.result_document import ResultDocument

_MOST_ROWS, _MOST_NAMED = 40, 5


@command()
def atlas(
    inputs: Inputs,
    out: Output,
    indices: FILTERS_OF_CLASSES = None,
    k: FILTERS_PER_CLASS = None,
    class_names: Annotated[
        Optional[list[str]],
        option(
            "--class",
            "-c",
            metavar="NAME",
            help="A class, by name or number, whose features are looked at; repeatable. Default: all classes.",
        ),
    ] = None,
    images: Annotated[int, option("--images", metavar="N", help="Images a feature, 1 to 16.", show_default=True)] = 9,
) -> None:
    """Look at every feature that classes use: its images, who uses it, and what is lost where it alone is left out.

    Writes atlas.png, with a row of images for each feature, and result.json into a folder: --output, or a new one in
    results/. Takes up to 300 features.

    Example: decompose atlas resnet20 -i indices.json -o atlas
    """
    from decompose_cli.engines.atlas import AtlasSettings
    from decompose_cli.engines.atlas import atlas as run
    from decompose_cli.reporting.atlas_sheet import SHEET

    settings = AtlasSettings(indices, k, class_names or (), images)

    def work(folder: Path | None) -> None:
        document = run(inputs, settings, folder=folder)
        written = f"Written to {folder}: {SHEET}, {RESULT}" if folder is not None else None
        present(out, document, lambda: show_atlas(out.terminal, document), written=written)

    in_folder(out, "atlas", inputs, (SHEET, RESULT), work)


def show_atlas(terminal: Terminal, document: ResultDocument[AtlasResults]) -> None:
    """Show each feature: the classes that use it, what is lost without it, and how much it prefers one class."""
    results = document.results
    names = document.dataset.classes if document.dataset is not None else []
    of = f" of {', '.join(results.classes)}" if results.classes is not None else ""
    terminal.title(
        f"{counted(len(results.features), 'feature')}{of}; with all of them {results.head.correct:,} of "
        f"{results.total:,} images are right"
    )
    rows = [_row(one, names) for one in results.features[:_MOST_ROWS]]
    columns = [
        "Feature",
        "Used by",
        "Correct without",
        "Points",
        "95% interval",
        "Worst class",
        "Selectivity",
        "Strongest of\nits classes",
    ]
    terminal.print(make_table(columns, rows, left=2))
    more = len(results.features) - len(rows)
    if more > 0:
        terminal.print(f"The result document has {counted(more, 'more feature')}, whose loss costs less.")
    terminal.print(
        "Correct without: images that are right where this feature alone is left out of all classes that use it. "
        "Strongest of its classes: how many of the images with its highest values are of classes that use it."
    )


def _row(one: AtlasFeature, names: list[str]) -> list[str]:
    lost = one.lost
    low, high = lost.ci95
    worst = lost.worst_class
    return [
        str(one.feature),
        first_few([use.class_name for use in one.used_by], _MOST_NAMED),
        f"{lost.correct:,}",
        f"{lost.points:+.2f}",
        f"{low:+.2f} to {high:+.2f}",
        "" if worst is None else f"{names[worst.number]} {worst.after - worst.before:+,}",
        "" if one.selectivity is None else f"{one.selectivity:.2f}",
        f"{one.of_users} of {len(one.images)}",
    ]
