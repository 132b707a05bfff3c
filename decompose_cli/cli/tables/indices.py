"""Index sets as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decompose_cli.cli.console import Terminal, make_table
from decompose_cli.cli.tables.accuracy import show_setting
from decompose_cli.cli.tables.words import label
from decompose_cli.decomposition.ranking import RANKINGS
from decompose_cli.errors import first_few
from decompose_cli.printable import counted

if TYPE_CHECKING:
    from decompose_cli.engines.extract_indices import ExtractResults
    from decompose_cli.storage.result_document import ResultDocument

_MOST_CLASSES = 20
_SHOWN_INDICES = 12


def show_indices(terminal: Terminal, document: ResultDocument[ExtractResults]) -> None:
    """Show the index sets, and the files they are in."""
    show_setting(terminal, document, chooses=True)
    names = document.dataset.classes if document.dataset else []
    for extracted in document.results.values():
        low, high = extracted.features_per_class
        size = counted(low, "feature") if low == high else f"{low} to {high} features"
        chosen = [(int(number), row) for number, row in extracted.indices.items() if not isinstance(row, str)]
        rows = [[names[number], first_few(indices, _SHOWN_INDICES)] for number, indices in chosen[:_MOST_CLASSES]]
        has_gates = RANKINGS[extracted.method].needs_gates
        method = label(extracted.method, document.arguments["order"], has_gates=has_gates)
        terminal.title(f"{size} per class by {method}, in the order of the ranking (k = {extracted.k})")
        terminal.print(make_table(["Class", "Features"], rows, left=2))
        if len(chosen) > _MOST_CLASSES:
            terminal.print(f"... and {counted(len(chosen) - _MOST_CLASSES, 'more class', 'more classes')}")
        if len(chosen) < len(extracted.indices):
            others = len(extracted.indices) - len(chosen)
            terminal.print(f"Classes without images, which keep all features: {others}.")
        if extracted.file:
            terminal.print(f"Indices written to {extracted.file}")
    if not all(RANKINGS[extracted.method].is_fitted for extracted in document.results.values()):
        terminal.print("Features with equal scores are a tie, in which the higher index comes first.")
