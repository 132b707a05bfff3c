"""Explanations as tables for the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from decompose_cli.console import Terminal, make_table

if TYPE_CHECKING:
    from decompose_cli.engines.explain import ExplainResults
    from decompose_cli.results import ResultDocument


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
