"""``decompose models``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from decompose_cli.cli.console import Terminal, make_table
from decompose_cli.cli.options.binding import command
from decompose_cli.cli.output import Listing, print_json
from decompose_cli.models.entry import ModelEntry


@command()
def models(out: Listing) -> None:
    """List the networks known by name, their weights and their stated accuracy."""
    from decompose_cli.models.registry import registered_models

    entries = registered_models()
    show_models(out.terminal, entries)
    if out.json:
        print_json([entry.facts() for entry in entries])


def show_models(terminal: Terminal, entries: Sequence[ModelEntry]) -> None:
    """Show the registry as a table."""
    rows = []
    for entry in entries:
        weights = entry.weights.name if isinstance(entry.weights, Path) else str(entry.weights or "").rsplit("/", 1)[-1]
        parameters = "" if entry.parameters is None else f"{entry.parameters:,}"
        accuracy = "" if entry.accuracy is None else f"{entry.accuracy:.2f}"
        rows.append(
            [entry.name, entry.dataset or "", weights, entry.source, parameters, str(entry.num_features), accuracy]
        )
    columns = ["Model", "Trained on", "Weights", "Source", "Parameters", "Features", "Top-1 %"]
    terminal.title("Models (top-1 as stated by the source)")
    terminal.print(make_table(columns, rows, left=4))
    terminal.print(
        "Also: any other torchvision classifier by its name, timm:NAME, hf:ORG/NAME or hf:FOLDER of transformers, and "
        "package.module:callable for a network of yours."
    )
