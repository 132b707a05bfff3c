"""``decompose lr-find``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

from decompose_cli.cli.console import Terminal
from decompose_cli.cli.options.binding import command
from decompose_cli.cli.options.declaration import COMPUTING, option
from decompose_cli.cli.options.training import (
    FROM_SCRATCH,
    IDLE_FROM_SCRATCH,
    NOT_FROM_SCRATCH,
    NetworkOptions,
    with_settings,
)
from decompose_cli.cli.output import Output, in_folder, present
from decompose_cli.features.inputs import Inputs
from decompose_cli.printable import counted
from decompose_cli.storage.names import RESULT

if TYPE_CHECKING:
    from decompose_cli.engines.lr_find import LrFindResults
    from decompose_cli.storage.result_document import ResultDocument


@command(
    without=(*NOT_FROM_SCRATCH, "batch_size", "precision"),  # which are settings of the recipe
    idle=IDLE_FROM_SCRATCH
    | {
        "head": "the whole network is trained",
        "devices": "one process looks for the rate",
        "num_nodes": "one process looks for the rate",
        "no_cache": "no features are kept",
    },
    replaced=FROM_SCRATCH,
)
def lr_find(
    inputs: Inputs,
    out: Output,
    model_options: NetworkOptions,
    recipe: Annotated[
        Optional[str], option("--recipe", metavar="NAME", help="Preset of the settings, as for 'train'.")
    ] = None,
    lowest: Annotated[
        float, option("--lowest", metavar="RATE", help="Learning rate of the first step.", show_default=True)
    ] = 1e-6,
    highest: Annotated[
        float, option("--highest", metavar="RATE", help="Learning rate of the last step.", show_default=True)
    ] = 10.0,
    steps: Annotated[
        int, option("--steps", metavar="N", help="Steps from --lowest to --highest.", show_default=True)
    ] = 100,
    overrides: Annotated[
        Optional[list[str]],
        option("--set", metavar="NAME=VALUE", help="A setting of the recipe, such as optimizer=adam; repeatable."),
    ] = None,
    batch_size: Annotated[
        Optional[int],
        option("--batch-size", "-b", metavar="N", panel=COMPUTING, help="Images per batch. Default: the recipe's."),
    ] = None,
    precision: Annotated[
        Optional[str],
        option(
            "--precision", metavar="32|bf16|16|auto", panel=COMPUTING, help="Number format of training. Default: 32."
        ),
    ] = None,
) -> None:
    """Look for a learning rate: train for a few steps, each at a higher rate, and see where the loss falls fastest.

    Writes result.json and curve.png into a folder: --output, or a new one in results/.

    Example: decompose lr-find resnet20 --dataset cifar10 -b 64
    """
    from decompose_cli.engines.lr_find import CURVE, LrFindSettings
    from decompose_cli.engines.lr_find import lr_find as run

    given = with_settings(overrides or [], batch_size=batch_size, precision=precision)
    settings = LrFindSettings(recipe, model_options, lowest, highest, steps, given)

    def work(folder: Path | None) -> None:
        document = run(inputs, settings, folder=folder)
        written = f"Written to {folder}: {CURVE}, {RESULT}" if folder is not None else None
        present(out, document, lambda: show_rates(out.terminal, document), written=written)

    in_folder(out, "lr-find", inputs, (RESULT, CURVE), work)


def show_rates(terminal: Terminal, document: ResultDocument[LrFindResults]) -> None:
    """Show the suggestion of a range test."""
    results = document.results
    terminal.title(f"Learning rate: {results.lr:.2g}")
    first, last = results.rates[0], results.rates[-1]
    end = "where the loss diverged" if results.diverged else "without divergence"
    terminal.print(
        f"The loss falls fastest there, among {counted(len(results.rates), 'rate')} from {first:.2g} to "
        f"{last:.2g}, {end}."
    )
    terminal.print(
        f"A tenth of the rate at which the averaged loss is lowest, the delay of the average taken off: "
        f"{results.minimum_tenth:.2g}"
    )
    if results.worse_than_guessing:
        terminal.print(
            f"At {results.lr:.2g} the loss is still higher than that of guessing: it falls from the initial weights to "
            "chance. Look at the curve, and try higher rates, up to where it is lowest, "
            f"{10 * results.minimum_tenth:.2g}."
        )
    if results.still_falling:
        terminal.print("The loss was still falling at the highest rate; a range that goes further would tell more.")
