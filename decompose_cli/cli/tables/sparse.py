"""Tables of sparse heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decompose_cli.cli.console import Terminal, make_table
from decompose_cli.cli.tables.accuracy import show_setting
from decompose_cli.cli.tables.words import p_value, said_of_worst
from decompose_cli.printable import counted

if TYPE_CHECKING:
    from decompose_cli.decomposition.sparse_results import Few, Sparse, SparsifyResults, Versus
    from decompose_cli.storage.result_document import ResultDocument


def show_heads(terminal: Terminal, document: ResultDocument[SparsifyResults]) -> None:
    """Show the heads with both baselines, what they are like, and where they were written."""
    show_setting(terminal, document, chooses=True)
    results = document.results
    refitted = results.refitted
    low, high = refitted.point.top1_ci95
    full = f"full head fitted anew: {refitted.point.correct}, {refitted.point.top1:.2f}% [{low:.2f}, {high:.2f}]"
    if results.original is not None:
        low, high = results.original.top1_ci95
        original = results.original
        full = f"full head: {original.correct}, {original.top1:.2f}% [{low:.2f}, {high:.2f}]; {full}"
    terminal.title(f"Images classified correctly, of {results.total:,} ({full})")
    rows = [
        [
            _sizes(head),
            head.method,
            "-" if head.l2 is None else f"{head.l2:.2g}",
            str(head.cut.correct),
            str(head.point.correct),
            f"{head.point.top1:.2f}",
            *_versus(head.versus_original),
            *_versus(head.versus_refitted),
        ]
        for head in results.heads.values()
    ]
    columns = ["k", "Method", "L2", "Cut", "Sparse", "Top-1 %", "- full", "p", "- refitted", "p"]
    if results.original is None:
        columns, rows = columns[:6] + columns[8:], [row[:6] + row[8:] for row in rows]
    terminal.print(make_table(columns, rows, left=2))
    terminal.print("Cut: the same features with the weights of the full head.")
    names = document.dataset.classes if document.dataset is not None else []
    for k, head in results.heads.items():
        is_full = head.versus_original is not None
        versus, what = head.versus_original or head.versus_refitted, f"k = {k} against the full head"
        terminal.print(said_of_worst(versus, names, what if is_full else f"{what} fitted anew"))
    _show_measures(terminal, results)
    if results.nec is not None:
        _show_nec(terminal, results.nec.elastic_net, results.nec.sparse)
    chosen = results.chosen_on
    if chosen.chosen:
        what = f"{counted(chosen.images, 'image')} of {chosen.split}"
        terminal.print(f"Chosen on {what}: {', '.join(chosen.chosen)}; test images chose nothing.")
    if results.smallest is not None:
        found = results.smallest
        of_class = "" if found.max_class_drop is None else f", and {found.max_class_drop:g} for every class,"
        terminal.print(
            f"k = {found.k} is the smallest within {counted(found.max_drop, 'point')}{of_class} on these images."
        )
    for head in results.heads.values():
        if head.checkpoint is not None:
            terminal.print(f"Checkpoint {head.checkpoint}")


def _sizes(head: Sparse) -> str:
    low, high = head.features_per_class
    return str(head.k) if low == high == head.k else f"{head.k} ({low}-{high})"


def _show_measures(terminal: Terminal, results: SparsifyResults) -> None:
    terminal.title("What the heads are like")
    rows = [[k, *_measures(head)] for k, head in results.heads.items()]
    columns = [
        "k",
        "Features",
        "Classes each",
        "Independence",
        "Contrastiveness",
        "Correlation",
        "SID@5",
        "One apart",
    ]
    terminal.print(make_table(columns, rows, left=1))
    terminal.print("One apart: pairs of classes that differ in one feature only.")
    if all(head.measures.sid5 is None for head in results.heads.values()):
        terminal.print("SID@5 needs --maps, and classes with five features.")


def _measures(head: Sparse) -> list[str]:
    found = head.measures
    spread = found.classes_per_feature
    numbers = (found.class_independence, found.contrastiveness, found.correlation, found.sid5)
    return [
        str(found.features_used),
        "-" if spread is None else f"{spread.mean:.1f}",
        *("-" if value is None else f"{value:.3f}" for value in numbers),
        str(found.one_difference),
    ]


def _show_nec(terminal: Terminal, path: Few, own: Few) -> None:
    terminal.title("Top-1 % by features per class (NEC)")
    rows = [
        [name, *("-" if value is None else f"{value:.2f}" for value in (*few.accuracy.values(), few.mean))]
        for name, few in (("elastic-net path, on average", path), ("sparse heads, exactly", own))
    ]
    terminal.print(make_table(["", *path.accuracy, "Mean"], rows, left=1))


def _versus(found: Versus | None) -> list[str]:
    if found is None:
        return ["", ""]
    low, high = found.ci95
    return [f"{found.points:+.2f} [{low:+.2f}, {high:+.2f}]", p_value(found.mcnemar_p).removeprefix("= ")]
