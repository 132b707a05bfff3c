"""The program and its subcommands.

Nothing here imports torch before a command runs, so every ``--help`` answers at once.
"""

from __future__ import annotations

import gc
import os
import re
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from decompose_cli.cli.commands.atlas import atlas
from decompose_cli.cli.commands.cache import cache
from decompose_cli.cli.commands.compare import compare
from decompose_cli.cli.commands.datasets import datasets
from decompose_cli.cli.commands.demo import demo
from decompose_cli.cli.commands.essential import essential
from decompose_cli.cli.commands.explain import explain
from decompose_cli.cli.commands.export import export
from decompose_cli.cli.commands.extract_indices import extract_indices
from decompose_cli.cli.commands.filters import filters
from decompose_cli.cli.commands.finetune import finetune
from decompose_cli.cli.commands.layers import layers
from decompose_cli.cli.commands.lr_find import lr_find
from decompose_cli.cli.commands.models import models
from decompose_cli.cli.commands.mutual_info import mutual_info
from decompose_cli.cli.commands.report import report
from decompose_cli.cli.commands.selectivity import selectivity
from decompose_cli.cli.commands.sparsify import sparsify
from decompose_cli.cli.commands.sweep import sweep
from decompose_cli.cli.commands.train import train
from decompose_cli.cli.commands.train_gate import train_gate
from decompose_cli.cli.commands.validate import validate
from decompose_cli.cli.configured import ConfiguredCommand
from decompose_cli.cli.guard import show_traceback
from decompose_cli.cli.stdout import has_lost, own_descriptor
from decompose_cli.cli.usage import HELP, check_values, refused_in_a_sentence
from decompose_cli.version import __version__

_COMMANDS = (
    validate,
    extract_indices,
    sweep,
    sparsify,
    essential,
    mutual_info,
    compare,
    selectivity,
    finetune,
    export,
    train,
    train_gate,
    lr_find,
    explain,
    filters,
    atlas,
    report,
    demo,
    models,
    layers,
    datasets,
    cache,
)
"""The commands in the order of the help; each is called as its function, with hyphens."""
_LISTS = ("--milestones", "--lr-milestones", "--schedule")


def joined_integers(arguments: Sequence[str], options: Sequence[str] = _LISTS) -> list[str]:
    """Make ``--lr-milestones 100 150 200``, as other programs read it, ``--lr-milestones 100,150,200``."""
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
    def make_context(self, info_name: Any, args: list[str], parent: Any = None, **extra: Any) -> Any:
        self._typed = tuple(args)
        with refused_in_a_sentence(self._typed):
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: Any) -> Any:
        with refused_in_a_sentence(self._typed):
            return super().invoke(ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        arguments = joined_integers(args)
        if arguments and not ctx.resilient_parsing and (command := self.get_command(ctx, arguments[0])) is not None:
            check_values(command, arguments[1:])
        return super().parse_args(ctx, arguments)


app = typer.Typer(
    cls=_Program,
    name="decompose",
    help="Find, keep and measure the few penultimate features that each class of an image classifier uses.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": list(HELP)},
)


def main() -> None:
    """Run the program; the console script starts here."""
    sys.excepthook = show_traceback
    # A chart of numbers beyond all bounds, as a damaged result may have, is empty; NumPy's remarks on them say no more.
    warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"matplotlib\.")
    _let_threads_sleep()
    _forget_impossible_sizes()
    # Importing torch makes a million objects that stay, and the collector would walk through them dozens of times, for
    # a third of a second. The collector still runs, for what a long training leaves, but a hundred times less often.
    gc.set_threshold(1_000_000, 10, 10)
    try:
        with own_descriptor():
            for stream in (sys.stdout, sys.stderr):
                if hasattr(stream, "reconfigure"):
                    stream.reconfigure(errors="backslashreplace")  # names may not fit the terminal's encoding
            app()
    except SystemExit as done:
        if not done.code and has_lost():
            raise SystemExit(1) from None
        raise
    finally:
        gc.freeze()  # else the collector walks through all of torch once more at exit, for a quarter of a second


def _let_threads_sleep() -> None:
    """Let threads of GNU OpenMP sleep soon while they wait for each other; it looks when torch is imported.

    By default they spin, and where other programs use the cores, for one that does not run: beside four others on two
    cores a training step took several times as long. Alone it is at most a few percent faster.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "10000"


def _forget_impossible_sizes() -> None:
    """Take sizes of the terminal out of the environment that nothing can be shown in, or that are no numbers."""
    for name in ("COLUMNS", "LINES", "TERMINAL_WIDTH"):
        if not re.fullmatch(r"0*[1-9]\d{0,4}", os.environ.get(name, "1"), re.ASCII):
            del os.environ[name]


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


for _command in _COMMANDS:
    app.command(_command.__name__.replace("_", "-"), cls=ConfiguredCommand)(_command)
