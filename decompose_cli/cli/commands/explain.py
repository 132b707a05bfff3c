"""``decompose explain``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

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
    from decompose_cli.engines.explain import ExplainResults
    from decompose_cli.storage.result_document import ResultDocument


@command(idle={"precision": "gradients are taken of the network as it is, in float32"})
def explain(
    inputs: Inputs,
    out: Output,
    images: Annotated[
        Optional[list[Path]],
        typer.Argument(metavar="[IMAGE]...", help="Image files; or see --indices-of and --worst.", show_default=False),
    ] = None,
    indices_of: Annotated[
        Optional[str],
        option("--indices-of", metavar="N[,N...]", help="Images of the data set by number, from 0."),
    ] = None,
    worst: Annotated[
        Optional[int],
        option("--worst", metavar="N", help="The N images (1 to 40) of the data set with the highest loss."),
    ] = None,
    indices: FILTERS_OF_CLASSES = None,
    k: FILTERS_PER_CLASS = None,
    layer: Annotated[
        Optional[str],
        option(
            "--layer", metavar="NAME", help="Layer of Grad-CAM. Default: the last block with maps, or its main branch."
        ),
    ] = None,
) -> None:
    """Show where a network looks: Grad-CAM, and the map of the class's own filters beside that of all others.

    For networks that average maps over positions the two maps add up to the logit exactly. Writes a PNG file for each
    image, one with all of them, and result.json into a folder: --output, or a new one in results/.

    Example: decompose explain resnet20 --dataset cifar10 --worst 12 -i indices.json
    """
    from decompose_cli.engines.explain import SHEET, ExplainSettings
    from decompose_cli.engines.explain import explain as run

    if inputs.model is not None and Path(inputs.model).is_file():
        if inputs.weights is None:
            raise InputError(f"The network comes before its images: decompose explain MODEL {inputs.model}")
        images = [Path(inputs.model), *(images or [])]  # the weights say which network they belong to
        inputs = dataclasses.replace(inputs, model=None)
    settings = ExplainSettings(images or (), _numbers(indices_of), worst, indices, k, layer)

    def work(folder: Path | None) -> None:
        document = run(inputs, settings, folder=folder, overwrite=out.overwrite)
        files = f"{SHEET}, a PNG file for each image, {RESULT}"
        written = f"Written to {folder}: {files}" if folder is not None else None
        present(out, document, lambda: show_explanations(out.terminal, document), written=written)

    in_folder(out, "explain", inputs, (RESULT, SHEET), work)


def _numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
        raise InputError(f"{param('indices_of')} {text!r} is not a list of numbers such as 0,5,9.")
    return [int(word) for word in words]


def show_explanations(terminal: Terminal, document: ResultDocument[ExplainResults]) -> None:
    """Show what each image is taken for, and what the filters of its class contribute."""
    from decompose_cli.storage.result_document import DatasetInfo

    results = document.results
    rows = []
    for explanation in results.explanations:
        heads = [
            f"{scores[0].name} {100 * scores[0].probability:.1f}%" if scores else ""
            for scores in (explanation.original, explanation.decomposed)
        ]
        sums = explanation.sums
        parts = [] if sums is None else [f"{sums.own:+.2f}", "" if sums.others is None else f"{sums.others:+.2f}"]
        rows.append(
            [
                Path(explanation.shown).name,
                explanation.label_name or "",
                *heads,
                *(parts or ["", ""]),
            ]
        )
    terminal.title("Explanations")
    columns = ["Image", "Label", "Full head", "Decomposed", "Own filters", "All others"]
    terminal.print(make_table(columns, rows, left=4))
    made: dict[str, list[str]] = {}
    for explanation in results.explanations:
        geometry = explanation.geometry(document.dataset.crop) if isinstance(document.dataset, DatasetInfo) else None
        if geometry is not None:
            made.setdefault(geometry, []).append(Path(explanation.shown).name)
    for geometry, names in made.items():
        terminal.print(f"{first_few(names)}: {geometry}.")
    terminal.print(f"Grad-CAM at {results.layer}.")
    for figures in results.deletion:
        interval = f", 95% interval {figures.ci95[0]:+.2f} to {figures.ci95[1]:+.2f}" if figures.ci95 else ""
        terminal.print(
            f"Without the {100 * figures.fraction:.0f}% highlighted by {figures.map} the logit falls by "
            f"{figures.highlighted:.2f}, without areas of that shape elsewhere by {figures.elsewhere:.2f}; difference "
            f"{figures.difference:+.2f}{interval} ({counted(figures.images, 'image')})"
        )
