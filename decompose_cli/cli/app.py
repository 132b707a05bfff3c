"""The command line: one program, its subcommands.

Nothing here imports torch before a command runs, so every ``--help`` answers at once.
"""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from decompose_cli.cli.commands import decomposing, gating, listing, looking, reporting, studying, training
from decompose_cli.version import __version__

_LISTS = ("--milestones", "--lr-milestones", "--schedule")


def joined_integers(arguments: Sequence[str], options: Sequence[str] = _LISTS) -> list[str]:
    """``--lr-milestones 100 150 200``, as other programs read it, made into ``--lr-milestones 100,150,200``."""
    joined: list[str] = []
    is_list = wants_first = False
    for argument in arguments:
        is_value = re.fullmatch(r"\d+(,\d+)*", argument, re.ASCII) is not None
        if is_list and is_value:
            joined[-1] += f",{argument}"
            continue
        name, sign, _ = argument.partition("=")
        is_list = (wants_first and is_value) or (name in options and bool(sign))
        wants_first = argument in options
        joined.append(argument)
    return joined


class _Program(TyperGroup):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, joined_integers(args))


app = typer.Typer(
    cls=_Program,
    name="decompose",
    help="Find, keep and measure the few penultimate features that each class of an image classifier uses.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names of classes may not fit the terminal's encoding
    # Importing torch makes a million objects that stay, and the collector would walk through them dozens of times, for
    # a third of a second. It still runs, for what a long training leaves, but a hundred times less often.
    gc.set_threshold(1_000_000, 10, 10)
    try:
        app()
    finally:
        gc.freeze()  # else the collector walks through all of torch once more at exit, for a quarter of a second


def _version(shown: bool) -> None:
    if shown:
        typer.echo(f"decompose {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


for _name, _function in {
    "validate": decomposing.validate,
    "extract-indices": decomposing.extract_indices,
    "sweep": studying.sweep,
    "essential": studying.essential,
    "mutual-info": studying.mutual_info,
    "selectivity": studying.selectivity,
    "finetune": training.finetune,
    "train": training.train,
    "train-gate": gating.train_gate,
    "lr-find": training.lr_find,
    "explain": looking.explain,
    "filters": looking.filters,
    "report": reporting.report,
    "demo": decomposing.demo,
    "models": listing.models,
    "layers": listing.layers,
    "datasets": listing.datasets,
    "cache": listing.cache,
}.items():
    app.command(_name)(_function)
