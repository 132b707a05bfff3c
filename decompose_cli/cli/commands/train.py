"""``decompose train``."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, Optional

from decompose_cli.cli.console import Terminal, make_table
from decompose_cli.cli.options.binding import command, led
from decompose_cli.cli.options.declaration import option
from decompose_cli.cli.options.rankings import L2
from decompose_cli.cli.options.training import (
    FROM_SCRATCH,
    IDLE_FROM_SCRATCH,
    NEW_HEAD,
    NOT_FROM_SCRATCH,
    ONLY,
    NetworkOptions,
    Tuning,
)
from decompose_cli.cli.output import RunOutput, finish
from decompose_cli.cli.runs import finish_run, make_request, weights_to_evaluate
from decompose_cli.cli.tables.accuracy import show_validation
from decompose_cli.cli.tables.runs import COLUMNS, measured_rows, show_files, show_spread
from decompose_cli.errors import InputError, one_of, param
from decompose_cli.features.inputs import Inputs

if TYPE_CHECKING:
    from decompose_cli.storage.result_document import ResultDocument
    from decompose_cli.training.outcome import RunResults


@command(without=NOT_FROM_SCRATCH, idle=IDLE_FROM_SCRATCH, replaced=FROM_SCRATCH)
def train(
    inputs: Inputs,
    out: RunOutput,
    tuning: Tuning,
    model_options: NetworkOptions,
    recipe: Annotated[
        Optional[str],
        option(
            "--recipe",
            metavar="NAME",
            help="Preset of the settings: cifar-resnet, he2015, online-norm, custom-resnet, imagenet, digits, "
            "finetune, transfer or soft-gates. Default: what suits the network.",
        ),
    ] = None,
    new_head: NEW_HEAD = False,
    only: ONLY = None,
    refit: Annotated[
        bool,
        option("--refit", help="Begin with a head that is fitted to the features of the training images; then train."),
    ] = False,
    l2: L2 = None,
    evaluate: Annotated[
        bool, option("--evaluate", "-e", help="Train nothing: measure --weights, as 'validate' does.")
    ] = False,
    pretrained: Annotated[bool, option("--pretrained", help="Short for --weights default.")] = False,
) -> None:
    """Train a network from scratch, or from --weights.

    Writes a run folder: last.pt, best.pt where images are held out, logs, result.json. An interrupted run goes on with
    --resume RUN as if it had not been interrupted.

    With --new-head it learns other classes than those of --weights (transfer learning); --only head trains its head
    alone, and --refit fits that first.

    Example: decompose train resnet20 --dataset cifar10 --epochs 30 --milestones 15,22
    """
    from decompose_cli.engines.train import Transfer
    from decompose_cli.engines.train import train as run
    from decompose_cli.training.freezing import PARTS, TRAINED

    inputs = _starting_weights(inputs, pretrained=pretrained)
    if evaluate:
        given = {"recipe": recipe, "new_head": new_head, "only": only, "refit": refit, "l2": l2}
        useless = [name for name, value in given.items() if value not in (None, False)]
        _evaluate(weights_to_evaluate(inputs, tuning, useless), out, model_options)
        return
    transfer = Transfer(new_head, one_of(only, TRAINED, "only", hint=PARTS) if only is not None else None, refit, l2)
    request = make_request(inputs, out, tuning, "train")
    document = run(request, recipe=recipe, model_options=model_options, transfer=transfer)
    finish_run(out, document, lambda: show_training(out.terminal, document))


def _starting_weights(inputs: Inputs, *, pretrained: bool) -> Inputs:
    if not pretrained:
        # Training begins with random weights unless others are given; then its head fits the images, too.
        return dataclasses.replace(inputs, weights=None) if inputs.weights == "random" else inputs
    if inputs.weights is not None:
        raise InputError(f"{param('pretrained')} means {param('weights')} default; give one of them.")
    return dataclasses.replace(inputs, weights="default")


def _evaluate(inputs: Inputs, out: RunOutput, model_options: NetworkOptions) -> None:
    """Run ``train --evaluate``: show what 'validate' says of the weights that training would begin with."""
    from decompose_cli.engines.validate import validate as run
    from decompose_cli.storage.files import check_writable
    from decompose_cli.training.setup import open_weights

    path = out.path / "evaluation.json" if out.path is not None else None
    if path is not None:
        check_writable(path, overwrite=out.overwrite)

    def work() -> None:
        given = dataclasses.replace(inputs, model_options=dict(model_options) or None)
        document = run(given, classifier=open_weights(inputs, model_options, inputs.seed))
        finish(out, document, path, inputs, show=lambda: show_validation(out.terminal, document))

    led(inputs, work)


def show_training(terminal: Terminal, document: ResultDocument[Any]) -> None:
    """Show what came of one run, or of several."""
    results = document.results
    runs: list[RunResults] = getattr(results, "runs", None) or [results]
    rows = [row for run in runs for row in measured_rows(document, run, seeds=len(runs) > 1)]
    terminal.title("Result")
    terminal.print(make_table(COLUMNS, rows, left=2))
    show_spread(terminal, getattr(results, "summary", []))
    show_files(terminal, document, runs)
