"""Results of training as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decompose_cli.cli.console import Terminal, make_table
from decompose_cli.cli.tables.basics import p_value

if TYPE_CHECKING:
    from decompose_cli.engines.finetune import FinetuneResults
    from decompose_cli.engines.lr_find import LrFindResults
    from decompose_cli.engines.train_gate import GateResults
    from decompose_cli.storage.result_document import ResultDocument
    from decompose_cli.training.gating.report import GateContrast, GateReport, MeanGate, Skipping
    from decompose_cli.training.outcome import Measured, RunResults, Spread
    from decompose_cli.training.records import Score


def show_training(terminal: Terminal, document: ResultDocument[Any]) -> None:
    """What came of one run, or of several."""
    results = document.results
    runs: list[RunResults] = getattr(results, "runs", None) or [results]
    rows = [row for run in runs for row in _measured_rows(document, run, seeds=len(runs) > 1)]
    terminal.title("Result")
    terminal.print(make_table(["Weights", "Images", "Correct", "Top-1 %", "Loss"], rows, left=2))
    _show_spread(terminal, getattr(results, "summary", []))
    _show_files(terminal, document, runs)


def show_finetuning(terminal: Terminal, document: ResultDocument[Any]) -> None:
    """Accuracy of the original, of its decomposition before and after, and what the difference means."""
    results = document.results
    runs: list[FinetuneResults] = getattr(results, "runs", None) or [results]
    terminal.title("Result")
    first = runs[0]
    rows = [_row("full head, original", first.original)] if first.original is not None else []
    rows.append(_row("decomposed, before", first.before))
    for run in runs:
        which = f", seed {run.seed}" if len(runs) > 1 else ""
        chosen = run.best or run.last
        name = f"decomposed, {'best' if run.best else 'last'} ({_when(document, run, chosen)}){which}"
        rows += [_row(name, score) for score in (chosen.val, run.after) if score is not None]
    terminal.print(make_table(["Network", "Images", "Correct", "Top-1 %", "Loss"], rows, left=2))
    for run in runs:
        found = run.difference
        if found is not None:
            low, high = found.ci95
            verdict = "no significant difference" if found.mcnemar_p >= 0.05 else "a significant difference"
            seed = f", seed {run.seed}" if len(runs) > 1 else ""
            terminal.print(
                f"After minus original{seed}: {found.points:+.2f} points, 95% interval {low:+.2f} to {high:+.2f}; "
                f"McNemar p {p_value(found.mcnemar_p)}: {verdict} at the 5% level"
            )
    _show_spread(terminal, getattr(results, "summary", []))
    _show_files(terminal, document, runs)


def show_gate_training(terminal: Terminal, document: ResultDocument[Any]) -> None:
    """Accuracy and gates of one run, or of several."""
    from decompose_cli.training.run_folder import EXTREMES, G_VALUES, GATE_PLOT, LABEL_NOISE, NOISE_PLOT

    results = document.results
    runs: list[GateResults] = getattr(results, "runs", None) or [results]
    rows = [row for run in runs for row in _measured_rows(document, run, seeds=len(runs) > 1)]
    terminal.title("Result")
    terminal.print(make_table(["Weights", "Images", "Correct", "Top-1 %", "Loss"], rows, left=2))
    for run in runs:
        which = f", seed {run.seed}" if len(runs) > 1 else ""
        show_gates(terminal, run.gates, f" of the {'best' if run.best else 'last'} weights{which}")
    _show_spread(terminal, getattr(results, "summary", []))
    noisy = [LABEL_NOISE, NOISE_PLOT] if document.arguments["label_noise"] is not None else []
    _show_files(terminal, document, runs, [G_VALUES, GATE_PLOT, EXTREMES, *noisy])


def show_gates(terminal: Terminal, report: GateReport, whose: str = "") -> None:
    """What the gates say of each split, and what follows."""
    rows = []
    for found in report.splits:
        both = found.right_and_wrong
        cells = [_g(both.first.g), _g(both.second.g), _difference(both)] if both else ["", "", ""]
        counted = f"{found.correct:,} of {found.images:,}"
        rows.append([found.split, counted, f"{found.top1:.2f}", _with_interval(found.g), *cells])
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
            f"Label noise: mean g {_with_interval(noise.first)} of {noise.first.images:,} training images with wrong "
            f"labels, {_with_interval(noise.second)} of the other {noise.second.images:,}; "
            f"difference {_difference(noise)}"
        )
        terminal.print(
            f"Of the {noise.first.images:,} the network gives {noise.given:,} their wrong label and {noise.original:,} "
            f"the original one. By original labels {noise.correct:,} of "
            f"{noise.first.images + noise.second.images:,} training images are correct; the table counts by the labels "
            "that it was told."
        )
    if report.skipping is not None:
        _show_skipping(terminal, report.skipping)


def _show_skipping(terminal: Terminal, found: Skipping) -> None:
    names = [""] if len(found.skipped) == 1 else [" in stage 2", " in stage 3"]
    shares = " and ".join(f"{100 * share:.1f}%{name}" for share, name in zip(found.skipped, names, strict=True))
    terminal.print(
        f"Skipping where g < {found.below:g}: {shares} of the {found.split} images; {found.correct:,} of "
        f"{found.images:,} correct ({found.top1:.2f}%), without skipping {found.full_correct:,} "
        f"({found.full_top1:.2f}%)"
    )
    if found.images_per_second is None or found.full_images_per_second is None:
        terminal.print(
            "This gate reads the output of the last unit, which has been computed by then: skipping saves nothing."
        )
        return
    ratio = found.images_per_second / found.full_images_per_second
    terminal.print(
        f"Speed: {found.images_per_second:,.0f} images/s, without skipping {found.full_images_per_second:,.0f} "
        f"({ratio:.2f}x)" + (": to sort the images costs more than it saves here." if ratio < 1 else "")
    )


_HARDLY_DIFFERENT = 0.01


def _g(value: float) -> str:
    """Three digits after the point, and what is left of small ones."""
    return f"{value:.3f}" if value >= 0.01 else f"{value:.2g}"


def _with_interval(mean: MeanGate) -> str:
    # An interval that reaches below 0 is one of Student's, and no g is there.
    return _g(mean.g) + (f" [{_g(max(mean.ci95[0], 0))}, {_g(min(mean.ci95[1], 1))}]" if mean.ci95 else "")


def _difference(found: GateContrast) -> str:
    interval = f" [{_signed(found.ci95[0])}, {_signed(found.ci95[1])}]" if found.ci95 else ""
    return _signed(found.difference) + interval


def _signed(value: float) -> str:
    return f"{value if abs(value) >= 0.0005 else 0.0:+.3f}"


def show_rates(terminal: Terminal, document: ResultDocument[LrFindResults]) -> None:
    """The suggestion of a range test."""
    found = document.results
    terminal.title(f"Learning rate: {found.lr:.2g}")
    first, last = found.rates[0], found.rates[-1]
    end = "where the loss diverged" if found.diverged else "without divergence"
    terminal.print(
        f"Where the loss falls fastest, among {len(found.rates)} rates from {first:.2g} to {last:.2g}, {end}."
    )
    terminal.print(
        f"A tenth of the rate with the lowest averaged loss, less the steps that the average trails: "
        f"{found.minimum_tenth:.2g}"
    )
    if found.worse_than_guessing:
        terminal.print(
            "At that rate the loss is still higher than that of guessing: it falls from the initial weights to chance. "
            f"Look at the curve, and try higher rates, up to where it is lowest, {10 * found.minimum_tenth:.2g}."
        )
    if found.still_falling:
        terminal.print("The loss was still falling at the highest rate; a range that goes further would tell more.")


def _when(document: ResultDocument[Any], run: RunResults, found: Measured) -> str:
    """After how much training: epochs, or steps where these were asked for."""
    if document.arguments["settings"]["iterations"] is None:
        return f"epoch {found.epoch}"
    return f"step {next(record.steps for record in run.epochs if record.epoch == found.epoch):,}"


def _measured_rows(document: ResultDocument[Any], run: RunResults, *, seeds: bool) -> list[list[str]]:
    rows = []
    for name, found in (("last", run.last), ("best", run.best)):
        for score in (found.val, found.test) if found is not None else ():
            if found is not None and score is not None:
                seed = f", seed {run.seed}" if seeds else ""
                rows.append(_row(f"{name} ({_when(document, run, found)}){seed}", score))
    if not rows:  # neither held-out nor test images
        rows.append(_row(f"last ({_when(document, run, run.last)})", run.epochs[-1].train))
    return rows


def _row(name: str, score: Score) -> list[str]:
    return [name, score.split, f"{score.correct:,} of {score.images:,}", f"{score.top1:.2f}", f"{score.loss:.4f}"]


def _show_spread(terminal: Terminal, summary: Sequence[Spread]) -> None:
    for found in summary:
        terminal.print(
            f"{found.what}: median {found.median:.2f}, min {found.min:.2f}, max {found.max:.2f}, mean "
            f"{found.mean:.2f}, std {found.std:.2f} ({len(found.values)} runs)"
        )


def _show_files(
    terminal: Terminal, document: ResultDocument[Any], runs: Sequence[RunResults], more: Sequence[str] = ()
) -> None:
    for run in runs:
        weights = [path.rsplit("/", 1)[-1] for path in run.checkpoints.values()]
        names = ", ".join([*weights, "log.csv", "curve.png", *more, "result.json"])
        terminal.print(f"Written to {Path(run.checkpoints['last']).parent}: {names}")
        for kind, difference in run.export_errors.items():
            terminal.print(f"The {kind} file agrees with the network to {difference:.1e}")
    if len(runs) > 1:
        terminal.print(f"All runs: {Path(runs[0].checkpoints['last']).parent.parent}/result.json")
    files = runs[0].checkpoints
    model = document.arguments["model"]
    named = f"{model} " if ":" in model else ""  # Python code of the user's is run only where it is named
    what = "Use it" if len(runs) == 1 else "Use one of them"
    terminal.print(f"{what}: decompose validate {named}-w {files.get('best', files['last'])}")
