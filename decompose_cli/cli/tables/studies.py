"""Results of the studies as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from decompose_cli.cli.console import Terminal, make_table
from decompose_cli.cli.tables.basics import p_value, show_setting

if TYPE_CHECKING:
    from decompose_cli.engines.essential import EssentialResults, Kept
    from decompose_cli.engines.mutual_info import MutualInfoResults, SetOverlap
    from decompose_cli.engines.selectivity import Layer, SelectivityResults
    from decompose_cli.engines.sweep import Chosen, Loss, SweepResults
    from decompose_cli.storage.result_document import ResultDocument

_MOST_CLASSES = 20
_MOST_KS = 24
_COMPARED = {"psi_mean": "Psi (mean)", "psi_median": "Psi (median)", "class_selectivity": "Class selectivity"}


def label(name: str, order: str) -> str:
    """What to call a set where people read it: whether csg is the highest gates or the lowest changes everything."""
    return f"csg ({order} gates)" if name == "csg" else name


def show_overlap(terminal: Terminal, document: ResultDocument[MutualInfoResults]) -> None:
    """One table per number of features, with a column per set, as the paper's."""
    show_setting(terminal, document)
    sets = document.results.sets
    ks = list(dict.fromkeys(k for by_k in sets.values() for k in by_k))
    names = {name: label(name, document.arguments["order"]) for name in sets}
    terminal.title(
        "Mutual information of the classes' feature sets, in nats: mean over all pairs, as published, which includes "
        "each class with itself"
    )
    rows = [[k, *(f"{sets[name][k].mean:.8f}" if k in sets[name] else "" for name in sets)] for k in ks]
    terminal.print(make_table(["k", *names.values()], rows))
    terminal.title("Overlap between different classes, and how many classes use a feature")
    columns = ["Set", "k", "Mutual information", "Normalized", "Jaccard", "None", "One", "Several"]
    rows = [_overlap_row(names[name], k, found) for name, by_k in sets.items() for k, found in by_k.items()]
    terminal.print(make_table(columns, rows, left=2))


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
    columns = ["Method", "k", "No\nnoise", "Noise on\nfeatures", "Noise on\nothers", "Differ-\nence", "95% interval"]
    columns += ["Random\nsets", "p"]
    rows = []
    for name, found in results.summary.items():
        low, high = found.features_per_class
        rows.append(
            [
                label(name, document.arguments["order"]),
                f"{low}" if low == high else f"{low}-{high}",
                *_kept_cells(found),
            ]
        )
    terminal.print(make_table(columns, rows))
    terminal.print(
        "Difference: noise on all other features minus noise on the class's own, in points; the larger, the more the "
        "class rests on its features. ±: standard error over the draws."
    )
    if results.controls:
        terminal.print(
            f"Random sets: the mean difference of {results.controls} random sets of the same size. p: how often they "
            f"reach the difference of the features, at least {1 / (1 + results.controls):.3g} with so many sets."
        )
    for name, found in results.summary.items():
        terminal.print(f"{name}: features from {found.indices}; weights {found.weights.source}")
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
    terminal.title("Selectivity of the layers")
    terminal.print(
        f"Psi = 1 - n/D, n of D filters holding less than {results.fraction:g} of an image's activation: large if few "
        "filters respond. Class selectivity: large if a filter prefers a class."
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
    for field, title in _COMPARED.items():
        _show_compared(terminal, results, field, title)


def _show_compared(terminal: Terminal, results: SelectivityResults, field: str, title: str) -> None:
    parts = [results.layers, *(found.layers for found in results.compared.values())]
    values = {name: [getattr(part[name], field) for part in parts] for name in results.layers}
    known = [row for row in values.values() if None not in row]
    if len(known) > 1:
        values["mean"] = [sum(column) / len(known) for column in zip(*known, strict=True)]
    rows = [[name, *("" if value is None else f"{value:.5f}" for value in row)] for name, row in values.items()]
    terminal.title(f"{title}, compared")
    terminal.print(make_table(["Layer", "this", *results.compared], rows))


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
    shown = ks if len(ks) <= _MOST_KS else [k for k in ks if k == ks[-1] or _is_round(int(k), len(ks))]
    terminal.print(
        make_table(
            ["k", *(label(name, document.arguments["order"]) for name in methods)],
            [[k, *(str(points[k].correct) for points in methods.values())] for k in shown],
            left=0,
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
        f"Smallest index set found: {chosen.features} features in all, {low} to {high} per class ({chosen.method}, "
        f"from a common k of {chosen.k}), which loses with 95% confidence at most {chosen.max_drop:g} points on "
        f"{chosen.chosen_on.split}"
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
    found = [f"{name} {'none' if one is None else one.features}" for name, one in chosen.candidates.items()]
    terminal.print(f"Features in all by method: {', '.join(found)}")
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
