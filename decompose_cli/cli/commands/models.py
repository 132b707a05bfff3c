"""``decompose models``."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Optional

from decompose_cli.cli.console import Terminal, make_table
from decompose_cli.cli.options.binding import command
from decompose_cli.cli.options.declaration import option
from decompose_cli.cli.output import Listing, print_json

if TYPE_CHECKING:
    from decompose_cli.engines.models import FoundModels


@command()
def models(
    out: Listing,
    search: Annotated[
        Optional[str],
        option(
            "--search",
            metavar="PATTERN",
            help="Search the names of ours, torchvision's and timm's networks: a part of a name, or a pattern with *.",
        ),
    ] = None,
) -> None:
    """List the networks known by name, their weights and their stated accuracy.

    Example: decompose models --search 'convnext*tiny*'
    """
    from decompose_cli.engines.models import find_models

    found = find_models(search)
    show_models(out.terminal, found, search)
    if out.json:
        print_json(found.models)


def show_models(terminal: Terminal, found: FoundModels, search: str | None = None) -> None:
    """Show networks as a table."""
    rows = []
    for facts in found.models:
        numbers = ["" if facts[name] is None else f"{facts[name]:,}" for name in ("parameters", "num_features")]
        accuracy = "" if facts["accuracy"] is None else f"{facts['accuracy']:.2f}"
        classes = "" if facts["num_classes"] is None else str(facts["num_classes"] or "none")
        weights = PurePath(facts["weights"] or "").name
        weights = "hub" if weights and facts["name"].endswith(weights) else weights
        rows.append([facts["name"], facts["dataset"] or "", weights, facts["source"], classes, *numbers, accuracy])
    columns = ["Model", "Trained on", "Weights", "Source", "Classes", "Parameters", "Features", "Top-1 %"]
    filled = [place for place, _ in enumerate(columns) if any(row[place] for row in rows)]  # names alone have few facts
    columns, rows = [columns[place] for place in filled], [[row[place] for place in filled] for row in rows]
    if rows:
        terminal.title("Models (top-1 as stated by the source)")
        terminal.print(make_table(columns, rows, left=columns.index("Classes") if "Classes" in columns else 4))
    else:
        terminal.print(f"No network of this project, of torchvision or of timm has a name like {search!r}.")
    for library in found.not_installed:
        install = f"pip install 'decompose-cli[{library}]'"
        terminal.print(f"{library} cannot be imported, so its networks are not searched: {install}.")
    if search is None:
        terminal.print(
            "Also: any other torchvision classifier by its name, timm:NAME, hf:ORG/NAME or hf:FOLDER of transformers, "
            "and package.module:callable for a network of yours. --search PATTERN searches the names of torchvision's "
            "and timm's too."
        )
