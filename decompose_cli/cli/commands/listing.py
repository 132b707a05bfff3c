"""What is known, what is there, what is kept."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Optional

import typer

from decompose_cli.cli.options.shared import Output, command
from decompose_cli.cli.output import print_json


@command
def models(out: Output) -> None:
    """List the networks known by name, their weights and their stated accuracy."""
    from decompose_cli.cli.tables import basics as display
    from decompose_cli.models.registry import registered_models

    entries = registered_models()
    display.show_models(out.terminal, entries)
    if out.json:
        print_json([entry.facts() for entry in entries])


@command
def layers(
    out: Output,
    model: Annotated[
        Optional[str],
        typer.Argument(metavar="MODEL", help="As for every command; its weights are not needed.", show_default=False),
    ] = None,
    head: Annotated[
        Optional[str], typer.Option("--head", metavar="NAME", help="Mark this one.", show_default=False)
    ] = None,
    input_size: Annotated[
        Optional[str], typer.Option("--input-size", metavar="N|HxW", help="Default: the network's.", show_default=False)
    ] = None,
) -> None:
    """List the modules of a network with their output shapes; marks the head and the layer for activation maps."""
    from decompose_cli.cli.tables import basics as display
    from decompose_cli.engines.layers import list_layers

    found = list_layers(model, head=head, input_size=input_size)
    display.show_layers(out.terminal, found)
    if out.json:
        print_json(asdict(found))


@command
def datasets(
    out: Output,
    data_dir: Annotated[
        Optional[Path],
        typer.Option("--data-dir", metavar="DIR", help="Default: $DECOMPOSE_DATA, else data/.", show_default=False),
    ] = None,
) -> None:
    """List the data sets: which are there, where decompose looked, and how to get the others."""
    from decompose_cli.cli.tables import basics as display
    from decompose_cli.engines.datasets import list_datasets

    found = list_datasets(data_dir)
    display.show_datasets(out.terminal, found)
    if out.json:
        print_json([asdict(status) for status in found])


@command
def cache(
    out: Output,
    clear: Annotated[bool, typer.Option("--clear", help="Delete the computed features.")] = False,
    older_than: Annotated[
        float,
        typer.Option(
            "--older-than", metavar="DAYS", min=0, help="With --clear: only what is older.", show_default=False
        ),
    ] = 0,
) -> None:
    """List or clear the features that were computed before; downloaded weights are never cleared."""
    from decompose_cli.cli.tables import basics as display
    from decompose_cli.engines.cache import clear_cache, list_cache

    if clear:
        count, size = clear_cache(older_than)
        out.terminal.print(f"Deleted {count} files, {size / 1e6:.1f} MB.")
        if out.json:
            print_json({"deleted": count, "bytes": size})
        return
    status = list_cache()
    display.show_cache(out.terminal, status)
    if out.json:
        print_json(asdict(status))
