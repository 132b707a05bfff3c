"""``decompose train-gate``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

from decompose_cli.cli.console import Terminal, make_table
from decompose_cli.cli.options.binding import command, led
from decompose_cli.cli.options.declaration import GATES, NETWORK, OUTPUT, option, text
from decompose_cli.cli.options.inputs import model_argument
from decompose_cli.cli.options.training import IDLE_FROM_SCRATCH, NOT_FROM_SCRATCH, Tuning
from decompose_cli.cli.output import RunOutput, in_folder, present
from decompose_cli.cli.runs import finish_run, make_request, weights_to_evaluate
from decompose_cli.cli.tables.accuracy import show_setting
from decompose_cli.cli.tables.runs import COLUMNS, measured_rows, show_files, show_spread
from decompose_cli.errors import param
from decompose_cli.features.inputs import Inputs
from decompose_cli.messages import warn_no_effect
from decompose_cli.printable import counted
from decompose_cli.storage.names import RESULT
from decompose_cli.training.gating.settings import GateSettings

if TYPE_CHECKING:
    from decompose_cli.engines.train_gate import GateResults
    from decompose_cli.storage.result_document import ResultDocument
    from decompose_cli.training.gating.report import GateContrast, GateReport, MeanGate, Skipping

_REPLACED: dict[str, tuple[Any, Any]] = {
    "model": model_argument("the CIFAR ResNet of --depth, 110; on digits, the default of --dataset, resnet20."),
    "weights": text(
        "--weights",
        "-w",
        "--test_checkpoint",
        metavar="FILE|URL",
        panel=NETWORK,
        help="Weights with gates to go on from, or to measure with --evaluate. Default: none.",
    ),
    "run_name": text(
        "--run-name",
        "--mod_name_suffix",
        metavar="NAME",
        panel=OUTPUT,
        help="Name of the run folder. Default: command, network, images and time.",
    ),
}
_HARDLY_DIFFERENT = 0.01


_IDLE = {
    **{name: why for name, why in IDLE_FROM_SCRATCH.items() if name != "split"},
    "head": "the whole network is trained",
    "final_test": "test images are measured in the end",
    "no_cache": "no features are kept",
}


@command(without=(*NOT_FROM_SCRATCH, "split"), idle=_IDLE, replaced=_REPLACED)  # it has a --split of its own
def train_gate(
    inputs: Inputs,
    out: RunOutput,
    tuning: Tuning,
    gates: GateSettings,
    recipe: Annotated[
        Optional[str],
        option(
            "--recipe",
            metavar="NAME",
            panel=GATES,
            help="Preset of the settings, as for 'train'. Default: soft-gates; on digits, the recipe digits.",
        ),
    ] = None,
    split: Annotated[
        Optional[str],
        option(
            "--split",
            metavar="train|test|val",
            panel=GATES,
            help="With --evaluate: which images to measure. Default: test or val.",
        ),
    ] = None,
    evaluate: Annotated[
        bool,
        option("--evaluate", "-e", panel=GATES, help="Train nothing: measure accuracy and gates of --weights."),
    ] = False,
) -> None:
    """Train a network with soft gates, which weigh a later output against an earlier one for each image.

    Writes a run folder as 'train' does, with g of every image (g_values.csv), its distribution, and the images with the
    lowest and highest g. Gated checkpoints work with 'validate' and all other commands.

    Example: decompose train-gate resnet20 --dataset cifar10 --gate entropy-classifier --epochs 30 --schedule 15,22
    """
    from decompose_cli.engines.train_gate import train_gate as run
    from decompose_cli.training.gating.configuration import resolve_network

    if tuning.resume is None or gates.depth is not None:  # a run remembers its network
        inputs = resolve_network(inputs, gates.depth)
    if evaluate:
        useless = [*gates.given_of_training(), *(["recipe"] if recipe else [])]
        if machines := [name for name, count in tuning.machines.items() if count is not None]:
            warn_no_effect(machines, f"with {param('evaluate')}, where one process reads the gates")
            tuning = dataclasses.replace(tuning, machines=dict.fromkeys(tuning.machines))
        _evaluate(weights_to_evaluate(inputs, tuning, sorted(useless), ("weights",)), out, gates, split)
        return
    if split is not None:
        warn_no_effect(["split"], f"without {param('evaluate')}: training looks at all splits")
    document = run(make_request(inputs, out, tuning, "train-gate"), gates, recipe=recipe)
    finish_run(out, document, lambda: show_gate_training(out.terminal, document))


def _evaluate(inputs: Inputs, out: RunOutput, gates: GateSettings, split: str | None) -> None:
    """Run ``train-gate --evaluate``: measure accuracy and gates of weights, with the files of a run in a folder."""
    from decompose_cli.engines.train_gate import evaluate_gates
    from decompose_cli.training.run_folder import EXTREMES, G_VALUES, GATE_PLOT

    def work(folder: Path | None) -> None:
        document = evaluate_gates(inputs, gates, split=split, folder=folder)

        def show() -> None:
            show_setting(out.terminal, document)
            show_gates(out.terminal, document.results.gates, _stages(document))

        files = f"{RESULT}, {G_VALUES}, {GATE_PLOT}, {EXTREMES}"
        present(out, document, show, written=f"Written to {folder}: {files}" if folder is not None else None)

    files_of_run = (RESULT, G_VALUES, GATE_PLOT, EXTREMES)
    led(inputs, lambda: in_folder(out, "train-gate", inputs, files_of_run, work))


def show_gate_training(terminal: Terminal, document: ResultDocument[Any]) -> None:
    """Show the accuracy and the gates of one run, or of several."""
    from decompose_cli.training.run_folder import EXTREMES, G_VALUES, GATE_PLOT, LABEL_NOISE, NOISE_PLOT

    results = document.results
    runs: list[GateResults] = getattr(results, "runs", None) or [results]
    rows = [row for run in runs for row in measured_rows(document, run, seeds=len(runs) > 1)]
    terminal.title("Result")
    terminal.print(make_table(COLUMNS, rows, left=2))
    for run in runs:
        which = f", seed {run.seed}" if len(runs) > 1 else ""
        show_gates(terminal, run.gates, _stages(document), f" of the {'best' if run.best else 'last'} weights{which}")
    show_spread(terminal, getattr(results, "summary", []))
    noisy = [LABEL_NOISE, NOISE_PLOT] if document.arguments["label_noise"] is not None else []
    show_files(terminal, document, runs, [G_VALUES, GATE_PLOT, EXTREMES, *noisy])


def _stages(document: ResultDocument[Any]) -> tuple[int, ...]:
    """The stages with a gate; no stages where the gates are in units."""
    from decompose_cli.models.gate_kinds import GATES

    assert document.model is not None
    return GATES[document.model.options["gate"]].place.stages


def show_gates(terminal: Terminal, report: GateReport, stages: Sequence[int], whose: str = "") -> None:
    """Show what the gates, those of these stages or of units, say of each split, and what follows from it."""
    rows = []
    for summary in report.splits:
        both = summary.right_and_wrong
        cells = [_g(both.first.g), _g(both.second.g), _difference(both)] if both else ["", "", ""]
        right = f"{summary.correct:,} of {summary.images:,}"
        rows.append([summary.split, right, f"{summary.top1:.2f}", _with_interval(summary.g), *cells])
    terminal.title(f"Gates{whose}")
    columns = ["Images", "Correct", "Top-1 %", "Mean g [95%]", "Right", "Wrong", "Right minus wrong [95%]"]
    terminal.print(make_table(columns, rows, left=1))
    last = report.splits[-1]
    if last.by_gate:
        terminal.print(f"Mean g by gate, {last.split} images: {' '.join(_g(g) for g in last.by_gate)}")
    low, high = last.range
    if high - low < _HARDLY_DIFFERENT:
        terminal.print(
            f"g is nearly the same for all {last.split} images, {low:.4g} to {high:.4g}: this gate does not tell them "
            "apart."
        )
    noise = report.label_noise
    if noise is not None:
        terminal.print(
            f"Label noise: mean g {_with_interval(noise.first)} of "
            f"{counted(noise.first.images, 'training image')} with wrong "
            f"labels, {_with_interval(noise.second)} of the other {noise.second.images:,}; "
            f"difference {_difference(noise)}"
        )
        terminal.print(
            f"The network gives {noise.given:,} of the {noise.first.images:,} their wrong label and {noise.original:,} "
            f"the original one. By original labels {noise.correct:,} of "
            f"{noise.first.images + noise.second.images:,} training images are correct; the table counts by the labels "
            "that the network was told."
        )
    if report.skipping is not None:
        _show_skipping(terminal, report.skipping, stages)


def _show_skipping(terminal: Terminal, skipping: Skipping, stages: Sequence[int]) -> None:
    names = [""] if len(stages) == 1 else [f" in stage {stage}" for stage in stages]
    shares = " and ".join(f"{100 * share:.1f}%{name}" for share, name in zip(skipping.skipped, names, strict=True))
    terminal.print(
        f"Skipping where g < {skipping.below:g}: {shares} of the {skipping.split} images; {skipping.correct:,} of "
        f"{skipping.images:,} correct ({skipping.top1:.2f}%), without skipping {skipping.full_correct:,} "
        f"({skipping.full_top1:.2f}%)"
    )
    if skipping.images_per_second is None or skipping.full_images_per_second is None:
        terminal.print(
            "This gate reads the output of the last unit, which has been computed by then: skipping saves nothing."
        )
        return
    ratio = skipping.images_per_second / skipping.full_images_per_second
    terminal.print(
        f"Speed: {skipping.images_per_second:,.0f} images/s, without skipping {skipping.full_images_per_second:,.0f} "
        f"({ratio:.2f}x)" + (": sorting the images costs more than skipping saves here." if ratio < 1 else "")
    )


def _g(value: float) -> str:
    """A value of g with three digits after the point; a small one with two significant digits."""
    return f"{value:.3f}" if value >= 0.01 else f"{value:.2g}"


def _with_interval(mean: MeanGate) -> str:
    # Student's interval can reach below 0 or above 1, where no g is.
    return _g(mean.g) + (f" [{_g(max(mean.ci95[0], 0))}, {_g(min(mean.ci95[1], 1))}]" if mean.ci95 else "")


def _difference(contrast: GateContrast) -> str:
    interval = f" [{_signed(contrast.ci95[0])}, {_signed(contrast.ci95[1])}]" if contrast.ci95 else ""
    return _signed(contrast.difference) + interval


def _signed(value: float) -> str:
    return f"{value if abs(value) >= 0.0005 else 0.0:+.3f}"
