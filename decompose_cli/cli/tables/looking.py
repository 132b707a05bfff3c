"""Explanations as tables for the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from decompose_cli.cli.console import Terminal, make_table

if TYPE_CHECKING:
    from decompose_cli.engines.explain import ExplainResults
    from decompose_cli.engines.filters import FiltersResults
    from decompose_cli.storage.result_document import ResultDocument


def show_explanations(terminal: Terminal, document: ResultDocument[ExplainResults]) -> None:
    """What each image is taken for, and what its class's own filters contribute."""
    results = document.results
    rows = []
    for found in results.explanations:
        heads = [
            f"{scores[0].name} {100 * scores[0].probability:.1f}%" if scores else ""
            for scores in (found.original, found.decomposed)
        ]
        sums = found.sums
        parts = [] if sums is None else [f"{sums.own:+.2f}", "" if sums.others is None else f"{sums.others:+.2f}"]
        rows.append([Path(found.image).name, found.label_name or "", *heads, *(parts or ["", ""])])
    terminal.title("Explanations")
    columns = ["Image", "Label", "Full head", "Decomposed", "Own filters", "All others"]
    terminal.print(make_table(columns, rows, left=4))
    terminal.print(f"Grad-CAM at {results.layer}.")
    for figures in results.deletion:
        interval = f", 95% interval {figures.ci95[0]:+.2f} to {figures.ci95[1]:+.2f}" if figures.ci95 else ""
        terminal.print(
            f"Without the {100 * figures.fraction:.0f}% highlighted by {figures.map} the logit falls by "
            f"{figures.highlighted:.2f}, without areas of that shape elsewhere by {figures.elsewhere:.2f}; difference "
            f"{figures.difference:+.2f}{interval} ({figures.images} images)"
        )


def show_filters(terminal: Terminal, document: ResultDocument[FiltersResults]) -> None:
    """Each filter of a class: weight, values, who shares it, and of which class its strongest images are."""
    results = document.results
    rows = []
    for found in results.filters:
        means = ["" if mean is None else f"{mean:.3f}" for mean in (found.mean, found.mean_elsewhere)]
        shared = ", ".join(found.shared_with) or "none"
        strongest = f"{found.of_class} of {len(found.images)}"
        gain = "" if found.contribution is None else f"{found.contribution:+.3f}"
        rows.append([str(found.rank), str(found.feature), f"{found.weight:+.3f}", *means, gain, strongest, shared])
    terminal.title(f"Filters of {results.class_name}")
    columns = ["Rank", "Filter", "Weight", "Mean", "Elsewhere", "Weight x mean", "Strongest of class", "Shared with"]
    terminal.print(make_table(columns, rows, left=0))
    terminal.print("Mean: of the feature over the images of the class; elsewhere: over all others.")
