"""``decompose selectivity``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Optional

from decompose_cli.cli.console import Terminal, make_table
from decompose_cli.cli.options.binding import command
from decompose_cli.cli.options.declaration import option
from decompose_cli.cli.output import Output, checked_output, finish
from decompose_cli.cli.tables.accuracy import show_setting
from decompose_cli.features.inputs import Inputs
from decompose_cli.printable import counted

if TYPE_CHECKING:
    from decompose_cli.decomposition.selectivity_results import Layer, SelectivityResults
    from decompose_cli.storage.result_document import ResultDocument

_COMPARED = {"psi_mean": "Psi (mean)", "psi_median": "Psi (median)", "class_selectivity": "Class selectivity"}


@command()
def selectivity(
    inputs: Inputs,
    out: Output,
    layers: Annotated[
        str,
        option(
            "--layers",
            metavar="all|NAME[,NAME...]",
            help="Layers to measure; all: the stem and every residual unit.",
            show_default=True,
        ),
    ] = "all",
    fraction: Annotated[
        float,
        option("--fraction", metavar="F", help="Share of an image's activation, between 0 and 1.", show_default=True),
    ] = 0.5,
    compare: Annotated[
        Optional[list[str]],
        option("--compare", metavar="[NAME=]WEIGHTS", help="The same architecture with other weights; repeatable."),
    ] = None,
) -> None:
    """Measure how few filters of each layer respond to an image, and how much they prefer one class.

    Example: decompose selectivity resnet20 --layers layer3.2 --compare regularized=resnet20-regularized.pth
    """
    from decompose_cli.engines.selectivity import SelectivitySettings
    from decompose_cli.engines.selectivity import selectivity as run

    path = checked_output(out)
    names = [name.strip() for name in layers.split(",") if name.strip()]
    document = run(inputs, SelectivitySettings(names, fraction, compare or ()))
    finish(out, document, path, inputs, show=lambda: show_selectivity(out.terminal, document))


def show_selectivity(terminal: Terminal, document: ResultDocument[SelectivityResults]) -> None:
    """Show a row per layer; with several checkpoints, also a column for each of them."""
    show_setting(terminal, document)
    results = document.results
    terminal.title("Selectivity of the layers")
    terminal.print(
        f"Psi = 1 - n/D, n of D filters holding less than {results.fraction:g} of an image's activation: large if few "
        "filters respond. Class selectivity: large if a filter prefers a class."
    )
    columns = ["Layer", "Filters", "Psi (mean)", "Psi (median)", "Class selectivity"]
    rows = [[name, str(layer.filters), *_layer_cells(layer)] for name, layer in results.layers.items()]
    layers = list(results.layers.values())
    rows.append(["mean", "", *_mean_cells(layers)])
    terminal.print(make_table(columns, rows))
    silent = {name: sum(one.silent for one in layer.per_class.values()) for name, layer in results.layers.items()}
    for name, count in silent.items():
        if count:
            terminal.print(f"{name}: no filter responds to {counted(count, 'image')}, counted as needing none.")
    if not results.compared:
        return
    for field, title in _COMPARED.items():
        _show_compared(terminal, results, field, title)


def _show_compared(terminal: Terminal, results: SelectivityResults, field: str, title: str) -> None:
    parts = [results.layers, *(other.layers for other in results.compared.values())]
    values = {name: [getattr(part[name], field) for part in parts] for name in results.layers}
    known = [row for row in values.values() if None not in row]
    if len(known) > 1:
        values["mean"] = [sum(column) / len(known) for column in zip(*known, strict=True)]
    rows = [[name, *("" if value is None else f"{value:.5f}" for value in row)] for name, row in values.items()]
    terminal.title(f"{title}, compared")
    terminal.print(make_table(["Layer", "this", *results.compared], rows))


def _layer_cells(layer: Layer) -> list[str]:
    index = layer.class_selectivity
    return [f"{layer.psi_mean:.5f}", f"{layer.psi_median:.5f}", "" if index is None else f"{index:.5f}"]


def _mean_cells(layers: Sequence[Layer]) -> list[str]:
    count = len(layers)
    known = [layer.class_selectivity for layer in layers if layer.class_selectivity is not None]
    return [
        f"{sum(layer.psi_mean for layer in layers) / count:.5f}",
        f"{sum(layer.psi_median for layer in layers) / count:.5f}",
        f"{sum(known) / len(known):.5f}" if known else "",
    ]
