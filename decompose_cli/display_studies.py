"""Results of the studies as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from decompose_cli.console import Terminal, make_table
from decompose_cli.display import p_value, show_setting

if TYPE_CHECKING:
    from decompose_cli.engines.essential import EssentialResults, Kept
    from decompose_cli.engines.mutual_info import MutualInfoResults, SetOverlap
    from decompose_cli.engines.selectivity import Layer, SelectivityResults
    from decompose_cli.engines.sweep import Chosen, Loss, SweepResults
    from decompose_cli.results import ResultDocument

_MOST_CLASSES = 20
_MOST_KS = 24


def show_overlap(terminal: Terminal, document: ResultDocument[MutualInfoResults]) -> None:
    """One table per number of features, with a column per set, as the paper's."""
    show_setting(terminal, document)
    sets = document.results.sets
    ks = list(dict.fromkeys(k for by_k in sets.values() for k in by_k))
    terminal.title("Mutual information of the classes' feature sets, in nats (mean over all pairs, as published)")
    rows = [[k, *(f"{sets[name][k].mean:.8f}" if k in sets[name] else "" for name in sets)] for k in ks]
    terminal.print(make_table(["k", *sets], rows))
    terminal.title("Overlap between different classes")
    columns = ["Set", "k", "Mutual information", "Normalized", "Jaccard", "Features unused", "of one class", "of more"]
    terminal.print(
        make_table(columns, [_overlap_row(name, k, sets[name][k]) for name in sets for k in sets[name]], left=2)
    )


def _overlap_row(name: str, k: str, found: SetOverlap) -> list[str]:
    means = (found.off_diagonal_mean, found.normalized_mean, found.jaccard_mean)
    return [
        name,
        k,
        *("" if mean is None else f"{mean:.4f}" for mean in means),
        f"{found.unused} of {found.num_features}",
        str(found.exclusive),
        str(found.shared),
    ]


def show_essentiality(terminal: Terminal, document: ResultDocument[EssentialResults]) -> None:
    """All methods together, then each class by class."""
    show_setting(terminal, document)
    results = document.results
    times = f", {results.repeats} draws" if results.repeats > 1 else ""
    terminal.title(f"Images still assigned to their class, in percent ({results.noise} noise{times})")
    columns = ["Method", "k", "No noise", "Noise on its features", "Noise on all others", "Difference", "95% interval"]
    columns += ["Random sets", "p"]
    rows = []
    for name, found in results.summary.items():
        low, high = found.features_per_class
        rows.append([name, f"{low}" if low == high else f"{low}-{high}", *_kept_cells(found)])
    terminal.print(make_table(columns, rows))
    terminal.print(
        "Difference: noise elsewhere minus noise on the features, in points; the larger, the more the class rests on "
        f"its features. Random sets: the same for {results.controls} random sets of the same size."
    )
    for name in results.summary:
        by_class = results.by_class(name)
        shown = list(by_class)
        more = ""
        if len(shown) > _MOST_CLASSES:
            shown = sorted(shown, key=lambda number: by_class[number].essentiality)[:_MOST_CLASSES]
            more = f", the {_MOST_CLASSES} of {len(by_class)} classes with the smallest difference"
        names = document.dataset.classes if document.dataset else []
        terminal.title(f"{name} by class{more}")
        rows = [[names[int(number)], str(by_class[number].images), *_kept_cells(by_class[number])] for number in shown]
        terminal.print(make_table(["Class", "Images", *columns[2:]], rows))


def _kept_cells(found: Kept) -> list[str]:
    interval = found.essentiality_ci95
    return [
        f"{100 * found.clean / found.images:.1f}",
        *(
            f"{100 * count / found.images:.1f}" + ("" if error is None else f" ± {100 * error / found.images:.1f}")
            for count, error in (
                (found.noise_at_inf, found.noise_at_inf_se),
                (found.noise_at_noninf, found.noise_at_noninf_se),
            )
        ),
        f"{found.essentiality:+.1f}",
        "" if interval is None else f"{interval[0]:+.1f} to {interval[1]:+.1f}",
        "" if found.control_mean is None else f"{found.control_mean:+.1f}",
        "" if found.p is None else f"{found.p:.3f}",
    ]


def show_selectivity(terminal: Terminal, document: ResultDocument[SelectivityResults]) -> None:
    """A row per layer; with several checkpoints a column for each."""
    show_setting(terminal, document)
    results = document.results
    terminal.title(
        f"Selectivity of the layers (share of filters not needed for {results.fraction:g} of the activation)"
    )
    columns = ["Layer", "Filters", "Psi (mean)", "Psi (median)", "Class selectivity"]
    rows = [[name, str(layer.filters), *_layer_cells(layer)] for name, layer in results.layers.items()]
    layers = list(results.layers.values())
    rows.append(["mean", "", *_mean_cells(layers)])
    terminal.print(make_table(columns, rows))
    silent = {name: sum(found.silent for found in layer.per_class.values()) for name, layer in results.layers.items()}
    for name, count in silent.items():
        if count:
            terminal.print(f"{name}: no filter responds to {count} images; they count as needing none.")
    if not results.compared:
        return
    terminal.title("Psi (mean) compared")
    rows = [[name, *(f"{part[name].psi_mean:.5f}" for part in _compared(results))] for name in results.layers]
    averages = [sum(layer.psi_mean for layer in part.values()) / len(part) for part in _compared(results)]
    rows.append(["mean", *(f"{value:.5f}" for value in averages)])
    terminal.print(make_table(["Layer", "this", *results.compared], rows))


def _compared(results: SelectivityResults) -> list[dict[str, Layer]]:
    return [results.layers, *(found.layers for found in results.compared.values())]


def _layer_cells(layer: Layer) -> list[str]:
    index = layer.class_selectivity
    return [f"{layer.psi_mean:.5f}", f"{layer.psi_median:.5f}", "" if index is None else f"{index:.5f}"]


def _mean_cells(layers: Sequence[Layer]) -> list[str]:
    count = len(layers)
    known = [layer.class_selectivity for layer in layers if layer.class_selectivity is not None]
    return [
        f"{sum(layer.psi_mean for layer in layers) / count:.5f}",
        f"{sum(layer.psi_median for layer in layers) / count:.5f}",
        f"{sum(known) / len(known):.5f}" if known else "",
    ]


def show_sweep(terminal: Terminal, document: ResultDocument[SweepResults]) -> None:
    """Accuracy by number of features and method, and what was chosen."""
    show_setting(terminal, document)
    results = document.results
    low, high = results.original.top1_ci95
    terminal.title(
        f"Images classified correctly with k features per class (full head: {results.original.correct} of "
        f"{results.total}, {results.original.top1:.2f}%, 95% interval {low:.2f} to {high:.2f})"
    )
    methods = {name: results.curves[name] for name in document.arguments["methods"]}
    ks = list(dict.fromkeys(k for points in methods.values() for k in points))
    shown = ks if len(ks) <= _MOST_KS else [k for k in ks if _is_round(int(k), len(ks))]
    terminal.print(
        make_table(
            ["k", *methods], [[k, *(str(points[k].correct) for points in methods.values())] for k in shown], left=0
        )
    )
    if len(shown) < len(ks):
        terminal.print(f"{len(shown)} of {len(ks)} values of k are shown; the result has all.")
    rows = [
        [name, k, str(point.correct), f"{point.top1:.2f}", f"{point.top1_ci95[0]:.2f} to {point.top1_ci95[1]:.2f}"]
        for name, points in results.curves.items()
        for k, point in points.items()
        if name not in methods or k not in ks
    ]
    if rows:
        terminal.title("Index files")
        terminal.print(make_table(["Name", "k", "Correct", "Top-1 %", "95% interval"], rows))
    if results.chosen is not None:
        _show_chosen(terminal, results.chosen)
    if results.plot is not None:
        terminal.print(f"Curve drawn in {results.plot}")


def _is_round(k: int, count: int) -> bool:
    """The first few, and then about twenty more, evenly."""
    step = max(5, -(-count // 20 // 5) * 5)
    return k <= 5 or k % step == 0


def _show_chosen(terminal: Terminal, chosen: Chosen) -> None:
    low, high = chosen.features_per_class
    terminal.title(
        f"Smallest index set within {chosen.max_drop:g} points: {chosen.features} features in all, {low} to {high} per "
        f"class ({chosen.method}, from a common k of {chosen.k})"
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
        "p",
    ]
    rows = [_loss_row(chosen.chosen_on, "chosen on"), _loss_row(chosen.reported_on, "reported on")]
    terminal.print(make_table(columns, rows))
    if chosen.file is not None:
        terminal.print(f"Indices written to {chosen.file}")


def _loss_row(found: Loss, role: str) -> list[str]:
    return [
        f"{role} {found.split}",
        str(found.total),
        str(found.full_correct),
        str(found.common_correct),
        str(found.correct),
        f"{found.points:+.2f}",
        f"{found.ci95[0]:+.2f} to {found.ci95[1]:+.2f}",
        f"{found.loss_bound95:.2f}",
        p_value(found.mcnemar_p).removeprefix("= "),
    ]
