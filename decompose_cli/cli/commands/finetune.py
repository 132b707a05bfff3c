"""``decompose finetune``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

from decompose_cli.cli.console import Terminal, make_table
from decompose_cli.cli.options.binding import command
from decompose_cli.cli.options.declaration import option
from decompose_cli.cli.options.rankings import L2, METHODS, ORDER, PREDICTIONS
from decompose_cli.cli.options.training import IDLE_IN_TRAINING, NEW_HEAD, NOT_FOR_TRAINING, ONLY, Tuning
from decompose_cli.cli.output import RunOutput, checked_predictions, write_predictions
from decompose_cli.cli.runs import finish_run, make_request
from decompose_cli.cli.tables.runs import score_row, show_files, show_spread, when
from decompose_cli.cli.tables.words import p_value, said_of_fits, said_of_worst
from decompose_cli.decomposition.ranking import DEFAULT_METHOD
from decompose_cli.errors import InputError, one_of, param
from decompose_cli.features.inputs import Inputs

if TYPE_CHECKING:
    from decompose_cli.storage.result_document import ResultDocument
    from decompose_cli.training.finetune_results import FinetuneResults


@command(without=NOT_FOR_TRAINING, idle=IDLE_IN_TRAINING | {"final_test": "test images are measured in the end anyway"})
def finetune(
    inputs: Inputs,
    out: RunOutput,
    tuning: Tuning,
    indices: Annotated[
        Optional[Path],
        option("--indices", "-i", metavar="FILE", help="Index file. Default: rank features first."),
    ] = None,
    k: Annotated[
        Optional[str],
        option("-k", "--k", metavar="K", help="Without -i: features per class, 5 by default."),
    ] = None,
    method: Annotated[
        Optional[str],
        option("--method", metavar=METHODS, help=f"Without -i: how features are scored. Default: {DEFAULT_METHOD}."),
    ] = None,
    order: ORDER = "highest",
    new_head: NEW_HEAD = False,
    only: ONLY = None,
    refit: Annotated[
        bool, option("--refit", help="Begin with weights of the head that are fitted anew, on the training images.")
    ] = False,
    l2: L2 = None,
    diversity: Annotated[
        Optional[float],
        option(
            "--diversity",
            metavar="BETA",
            help="Subtract BETA times the diversity of the maps of SLDD (arXiv 2303.13166, there 0.196) from the loss. "
            "Default: 0.",
        ),
    ] = None,
    full_head_control: Annotated[
        bool,
        option(
            "--full-head-control",
            help="Also train the full head, by the same schedule: what training alone gains, without a decomposition.",
        ),
    ] = False,
    predictions: PREDICTIONS = None,
) -> None:
    """Decompose a network and train it further, to restore its accuracy.

    With --new-head a head for the classes of the data set is fitted first, and decomposed then.

    The checkpoints in the run folder carry their indices: 'decompose validate -w RUN/last.pt' needs no index file.

    Example: decompose finetune resnet20 -i indices.json --lr 0.0001 --epochs 5
    """
    from decompose_cli.decomposition.ranking import parse_method, parse_order
    from decompose_cli.decomposition.sizes import parse_k
    from decompose_cli.engines.finetune import FinetuneSettings
    from decompose_cli.engines.finetune import finetune as run
    from decompose_cli.training.freezing import PARTS, TRAINED

    ks = parse_k(k) if k is not None else [None]
    if len(ks) != 1:
        raise InputError(f"{param('k')} {k} is not one number of features per class.")
    settings = FinetuneSettings(
        indices=indices,
        k=ks[0],
        method=parse_method(method) if method is not None else None,
        order=parse_order(order) if order != "highest" else None,
        only=one_of(only, TRAINED, "only", hint=PARTS) if only is not None else None,
        refit=refit,
        l2=l2,
        diversity=diversity,
        new_head=new_head,
        predictions=predictions is not None,
        full_head_control=full_head_control,
    )
    checked_predictions(out, predictions)
    document = run(make_request(inputs, out, tuning, "finetune"), settings)
    write_predictions(out, document, predictions)
    finish_run(out, document, lambda: show_finetuning(out.terminal, document))


def show_finetuning(terminal: Terminal, document: ResultDocument[Any]) -> None:
    """Show the accuracy of the original and of its decomposition, before and after, and what the difference means."""
    results = document.results
    runs: list[FinetuneResults] = getattr(results, "runs", None) or [results]
    terminal.title("Result")
    first = runs[0]
    rows = (
        [score_row(f"full head, {'new' if first.new_head else 'original'}", first.original)]
        if first.original is not None
        else []
    )
    if first.cut is not None:
        rows.append(score_row("decomposed, weights of the full head", first.cut))
    rows.append(score_row(f"decomposed, before{', refitted' if first.refitting else ''}", first.before))
    for run in runs:
        which = f", seed {run.seed}" if len(runs) > 1 else ""
        chosen = run.best or run.last
        name = f"decomposed, {'best' if run.best else 'last'} ({when(document, run, chosen)}){which}"
        rows += [score_row(name, score) for score in (chosen.val, run.after) if score is not None]
        if run.control is not None:
            rows.append(score_row(f"full head, trained as well{which}", run.control.score))
    terminal.print(make_table(["Network", "Images", "Correct", "Top-1 %", "Loss"], rows, left=2))
    if first.refitting is not None:
        terminal.print(said_of_fits(first.refitting))
    for run in runs:
        difference = run.difference
        if difference is not None:
            low, high = difference.ci95
            verdict = "no significant difference" if difference.mcnemar_p >= 0.05 else "a significant difference"
            seed = f", seed {run.seed}" if len(runs) > 1 else ""
            terminal.print(
                f"After minus original{seed}: {difference.points:+.2f} points, 95% interval {low:+.2f} to {high:+.2f}; "
                f"McNemar p {p_value(difference.mcnemar_p)}: {verdict} at the 5% level",
                *_said_of_control(run),
                said_of_worst(difference, document.dataset.classes if document.dataset is not None else []),
            )
    show_spread(terminal, getattr(results, "summary", []))
    show_files(terminal, document, runs)


def _said_of_control(run: FinetuneResults) -> list[str]:
    """What training alone gains, and what the decomposition costs beside it."""
    if run.control is None:
        return []
    said = {
        "Full head trained as well, minus original": run.control.gain,
        "Decomposed after training, minus the full head trained as well": run.control.versus,
    }
    return [
        f"{what}: {one.points:+.2f} points, 95% interval {one.ci95[0]:+.2f} to {one.ci95[1]:+.2f}; McNemar p "
        f"{p_value(one.mcnemar_p)}"
        for what, one in said.items()
    ]
