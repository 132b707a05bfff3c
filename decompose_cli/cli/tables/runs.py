"""Runs as tables: what was measured, over several seeds, and where it was written."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decompose_cli.cli.console import Terminal
from decompose_cli.cli.flags import flag
from decompose_cli.models.entry import is_user_code
from decompose_cli.storage.names import LOG, RESULT

if TYPE_CHECKING:
    from decompose_cli.storage.result_document import ResultDocument
    from decompose_cli.training.outcome import Measured, RunResults, Spread
    from decompose_cli.training.records import Score

COLUMNS = ["Weights", "Images", "Correct", "Top-1 %", "Loss"]


def when(document: ResultDocument[Any], run: RunResults, measured: Measured) -> str:
    """The moment of a measurement, as "epoch 3"; in steps where the length of training was given in steps."""
    if document.arguments["settings"]["iterations"] is None:
        return f"epoch {measured.epoch}"
    return f"step {next(record.steps for record in run.epochs if record.epoch == measured.epoch):,}"


def measured_rows(document: ResultDocument[Any], run: RunResults, *, seeds: bool) -> list[list[str]]:
    """Rows of the last and the best weights, on the images that chose the best and on those that did not."""
    rows = []
    for name, measured in (("last", run.last), ("best", run.best)):
        for score in (measured.val, measured.test) if measured is not None else ():
            if measured is not None and score is not None:
                seed = f", seed {run.seed}" if seeds else ""
                rows.append(score_row(f"{name} ({when(document, run, measured)}){seed}", score))
    if not rows:  # neither held-out nor test images
        rows.append(score_row(f"last ({when(document, run, run.last)})", run.epochs[-1].train))
    return rows


def score_row(name: str, score: Score) -> list[str]:
    """One row: what was measured, on which images, and how it did."""
    return [name, score.split, f"{score.correct:,} of {score.images:,}", f"{score.top1:.2f}", f"{score.loss:.4f}"]


def show_spread(terminal: Terminal, summary: Sequence[Spread]) -> None:
    """Show how figures vary over several seeds."""
    for spread in summary:
        terminal.print(
            f"{spread.what}: median {spread.median:.2f}, min {spread.min:.2f}, max {spread.max:.2f}, mean "
            f"{spread.mean:.2f}, std {spread.std:.2f} ({len(spread.values)} runs)"
        )


def show_files(
    terminal: Terminal, document: ResultDocument[Any], runs: Sequence[RunResults], more: Sequence[str] = ()
) -> None:
    """Show where the runs were written, and how to use the weights.

    Args:
        terminal: The terminal.
        document: The result.
        runs: The runs, one for each seed.
        more: Names of further files in each run's folder.
    """
    for run in runs:
        weights = [path.rsplit("/", 1)[-1] for path in run.checkpoints.values()]
        names = ", ".join([*weights, LOG, "curve.png", *more, RESULT])
        terminal.print(f"Written to {Path(run.checkpoints['last']).parent}: {names}")
        for kind, difference in run.export_errors.items():
            terminal.print(f"The {kind} file agrees with the network to {difference:.1e}")
    if len(runs) > 1:
        terminal.print(f"All runs: {Path(runs[0].checkpoints['last']).parent.parent / RESULT}")
    files = runs[0].checkpoints
    model = document.arguments["model"]
    named = f"{model} " if is_user_code(model) else ""  # Python code of the user's is run only where it is named
    kept = {name: document.arguments.get(name) for name in ("columns", "class_map")}
    options = [word for name, value in kept.items() if value for word in (flag(name), str(value))]
    also = f" {shlex.join(options)}" if options else ""
    if document.model is not None and not document.model.head:
        terminal.print(
            "Its head cannot be found, which the commands for trained networks need; 'decompose layers' says why."
        )
        return
    what = "Use it" if len(runs) == 1 else "Use one of them"
    terminal.print(f"{what}: decompose validate {named}-w {files.get('best', files['last'])}{also}")
