"""``decompose sweep``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

from decompose_cli.cli.console import Terminal, make_table
from decompose_cli.cli.options.binding import command
from decompose_cli.cli.options.declaration import option
from decompose_cli.cli.options.rankings import INDEX_FILES, L2, ORDER, PREDICTIONS, fitted, listed
from decompose_cli.cli.output import Output, checked_predictions, in_folder, present, write_predictions
from decompose_cli.cli.tables.accuracy import show_setting
from decompose_cli.cli.tables.words import label, p_value, said_of_fits, said_of_worst
from decompose_cli.decomposition.ranking import RANKINGS
from decompose_cli.features.inputs import Inputs
from decompose_cli.printable import counted
from decompose_cli.storage.names import RESULT

if TYPE_CHECKING:
    from decompose_cli.decomposition.result_types import Point
    from decompose_cli.decomposition.smallest import Chosen, Loss
    from decompose_cli.decomposition.sweep_results import SweepResults
    from decompose_cli.storage.result_document import ResultDocument

_MOST_KS = 24
_MOST_WINNERS, _LARGEST_FLOOR = 6, 10


@command()
def sweep(
    inputs: Inputs,
    out: Output,
    methods: Annotated[
        Optional[str],
        option("--methods", metavar="M[,M...]", help=f"{listed()}. Default: all that fit the network but {fitted()}."),
    ] = None,
    ks: Annotated[
        Optional[str],
        option(
            "--ks",
            metavar="A-B[,K...]",
            help="Features per class. Default: 1-64, at most D; of heads that are fitted 1,2,3,5,10,20,... and D.",
        ),
    ] = None,
    indices: INDEX_FILES = None,
    order: ORDER = "highest",
    max_drop: Annotated[
        Optional[float],
        option(
            "--max-drop",
            metavar="POINTS",
            help="Look for the smallest index set that loses, on the training images and with 95% confidence, no more.",
        ),
    ] = None,
    max_class_drop: Annotated[
        Optional[float],
        option(
            "--max-class-drop",
            metavar="POINTS",
            help="With --max-drop: and of no class more than this, with 95% confidence for all classes together.",
        ),
    ] = None,
    refit: Annotated[
        bool,
        option("--refit", help="Every curve twice: weights of the full head, and weights fitted to training images."),
    ] = False,
    l2: L2 = None,
    predictions: PREDICTIONS = None,
) -> None:
    """Measure accuracy for every number of features per class, and choose the smallest index set within a given loss.

    Writes result.json, curve.png and, with --max-drop, indices.json into a folder: --output, or a new one in results/.

    Example: decompose sweep resnet20 --methods frequency,weight --ks 1-64 --max-drop 0.5
    """
    from decompose_cli.decomposition.ranking import parse_order
    from decompose_cli.engines.sweep import CURVE, INDICES, SweepSettings, parse_ks, parse_methods
    from decompose_cli.engines.sweep import sweep as run

    settings = SweepSettings(
        methods=parse_methods(methods) if methods is not None else None,
        ks=parse_ks(ks) if ks is not None else None,
        indices=indices or (),
        order=parse_order(order),
        max_drop=max_drop,
        max_class_drop=max_class_drop,
        refit=refit,
        l2=l2,
        predictions=predictions is not None,
    )
    checked_predictions(out, predictions)

    def work(folder: Path | None) -> None:
        document = run(inputs, settings, folder=folder)
        write_predictions(out, document, predictions)
        # The engine has written the result, together with the curve.
        written = f"Result written to {folder / RESULT}" if folder is not None else None
        present(out, document, lambda: show_sweep(out.terminal, document), written=written)

    in_folder(out, "sweep", inputs, (RESULT, CURVE, INDICES), work)


def show_sweep(terminal: Terminal, document: ResultDocument[SweepResults]) -> None:
    """Show the accuracy by number of features and method, and the set that was chosen."""
    from decompose_cli.decomposition.heads import OWN

    show_setting(terminal, document, chooses=True)
    results = document.results
    low, high = results.original.top1_ci95
    terminal.title(
        f"Images classified correctly with k features per class (full head: {results.original.correct} of "
        f"{results.total}, {results.original.top1:.2f}%, 95% interval {low:.2f} to {high:.2f})"
    )
    methods = document.arguments["methods"]
    order = document.arguments["order"]
    names = {name: label(name, order, has_gates=RANKINGS[name].needs_gates) for name in methods}
    ks = sorted({int(k) for name in methods for k in results.curves[name]})
    shown = ks if len(ks) <= _MOST_KS else [k for k in ks if k == ks[-1] or _is_round(k, len(ks))]
    terminal.print(_by_k(results.curves, names, shown))
    for line in _said_of_winners(results, names):
        terminal.print(line)
    if len(shown) < len(ks):
        terminal.print(f"{len(shown)} of {len(ks)} values of k are shown; the result has all.")
    if results.refitting is not None:
        if results.refitted:
            terminal.title("The same features, their weights fitted anew")
            terminal.print(_by_k(results.refitted, names, shown))
        terminal.print(said_of_fits(results.refitting))
    rows = [
        [what, k, str(point.correct), f"{point.top1:.2f}", f"{point.top1_ci95[0]:.2f} to {point.top1_ci95[1]:.2f}"]
        for name, points in results.curves.items()
        for k, cut in points.items()
        for what, point in ((name, cut), (f"{name}, refitted", results.refitted.get(name, {}).get(k)))
        if name not in methods and point is not None
    ]
    if rows:
        terminal.title("Index files" if OWN not in results.curves else "The sparse head of the weights")
        terminal.print(make_table(["Name", "k", "Correct", "Top-1 %", "95% interval"], rows))
    if results.chosen is not None:
        _show_chosen(terminal, results.chosen, document.dataset.classes if document.dataset else [])
    if results.plot is not None:
        terminal.print(f"Curve drawn in {results.plot}")


def _by_k(curves: Mapping[str, Mapping[str, Point]], names: Mapping[str, str], ks: Sequence[int]) -> Any:
    """Correct images of each method by k; nothing where a method was not tried."""
    rows = [
        [str(k), *(str(found.correct) if (found := curves[name].get(str(k))) else "" for name in names)] for k in ks
    ]
    return make_table(["k", *names.values()], rows, left=0)


def _said_of_winners(results: SweepResults, names: Mapping[str, str]) -> list[str]:
    """Which ranking gets most images right at which k, and what features drawn at random do."""
    from decompose_cli.decomposition.random_rankings import winners

    counts = {
        shown: {int(k): point.correct for k, point in results.curves[name].items()} for name, shown in names.items()
    }
    lines = []
    if len(counts) > 1:
        parts = [f"{' and '.join(best)} at k = {_ranges(ks)}" for best, ks in winners(counts)]
        more = len(parts) - _MOST_WINNERS
        lines.append(
            f"Most images right: {'; '.join(parts[:_MOST_WINNERS])}{f'; and {more} more changes' if more > 0 else ''}."
        )
    if results.random is not None:
        found = [(k, one) for k, one in results.random.by_k.items() if int(k) <= _LARGEST_FLOOR] or [
            next(iter(results.random.by_k.items()))
        ]
        said = [f"{one.mean:.1f}% ({one.min:.1f} to {one.max:.1f}) at k = {k}" for k, one in found]
        lines.append(
            f"Features drawn at random, {results.random.draws} times, on {results.random.images:,} images: "
            f"{', '.join(said)}."
        )
    return lines


def _ranges(ks: Sequence[int]) -> str:
    return str(ks[0]) if len(ks) == 1 else f"{ks[0]} to {ks[-1]}"


def _is_round(k: int, count: int) -> bool:
    """Whether a table shows this k: the first few, and then about twenty more, evenly."""
    step = max(5, -(-count // 20 // 5) * 5)
    return k <= 5 or k % step == 0


def _show_chosen(terminal: Terminal, chosen: Chosen, names: Sequence[str]) -> None:
    low, high = chosen.features_per_class
    terminal.title(
        f"Smallest index set found: {counted(chosen.features, 'feature')} in all, {low} to {high} per class "
        f"({chosen.method}, "
        f"from a common k of {chosen.k}), whose loss on {chosen.chosen_on.split} has a 95% bound of at most "
        f"{counted(chosen.max_drop, 'point')}"
        + (f", and of {chosen.max_class_drop:g} for every class" if chosen.max_class_drop is not None else "")
    )
    columns = [
        "Split",
        "Images",
        "Full head",
        f"k = {chosen.k}",
        "Chosen",
        "Points",
        "95% interval",
        "Loss at most",
        "McNemar p",
    ]
    rows = [_loss_row(chosen.chosen_on, "chosen on"), _loss_row(chosen.reported_on, "reported on")]
    terminal.print(make_table(columns, rows))
    counts = [f"{name} {'none' if one is None else one.features}" for name, one in chosen.candidates.items()]
    terminal.print(f"Features in all by method: {', '.join(counts)}")
    terminal.print(said_of_worst(chosen.reported_on, names))
    if chosen.file is not None:
        terminal.print(f"Indices written to {chosen.file}")


def _loss_row(loss: Loss, role: str) -> list[str]:
    return [
        f"{role} {loss.split}",
        str(loss.total),
        str(loss.full_correct),
        str(loss.common_correct),
        str(loss.correct),
        f"{loss.points:+.2f}",
        f"{loss.ci95[0]:+.2f} to {loss.ci95[1]:+.2f}",
        f"{loss.loss_bound95:.2f}",
        p_value(loss.mcnemar_p).removeprefix("= "),
    ]
