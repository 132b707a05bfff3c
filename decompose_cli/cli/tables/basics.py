"""Results as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decompose_cli.cli.console import Terminal, make_table

if TYPE_CHECKING:
    from decompose_cli.engines.cache import CacheStatus
    from decompose_cli.engines.datasets import DatasetStatus
    from decompose_cli.engines.demo import CurveResults
    from decompose_cli.engines.extract_indices import ExtractResults
    from decompose_cli.engines.layers import Layers
    from decompose_cli.engines.validate import HeadAccuracy, ValidateResults
    from decompose_cli.models.registry import ModelEntry
    from decompose_cli.storage.result_document import ResultDocument

_MOST_CLASSES = 20
_SHOWN_INDICES = 12
_CURVE_COLUMNS = 4


def show_setting(terminal: Terminal, document: ResultDocument[Any]) -> None:
    """Network, images and constants that a result belongs to."""
    model, dataset, cache = document.model, document.dataset, document.cache
    if model is None or dataset is None or cache is None:
        return
    triple = [", ".join(f"{value:g}" for value in values) for values in (dataset.mean, dataset.std)]
    states = {
        "hit": "from the cache, no forward pass",
        "miss": "computed, and kept for the next time",
        "off": "computed, not kept",
    }
    chosen = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in model.options.items())
    name = f"{model.name} with {chosen}" if chosen else model.name
    height, width = dataset.crop
    is_cropped = dataset.resize not in ([height, width], *([height] if height == width else []))
    resized = dataset.resize if isinstance(dataset.resize, int) else "x".join(map(str, dataset.resize))
    seen = f", resized to {resized}, centre {height}x{width}" if is_cropped else ""
    terminal.print(
        f"Network   {name}: {model.num_features} features into {model.head!r}, {model.num_classes} classes",
        f"\nWeights   {model.weights.source} (sha256 {model.weights.sha256[:8]})",
        f"\nImages    {dataset.name}, {dataset.split}: {dataset.images:,}, mean {triple[0]}, std {triple[1]}{seen}",
        f"\nFeatures  {states[cache.features]}",
    )


def show_validation(terminal: Terminal, document: ResultDocument[ValidateResults]) -> None:
    """Accuracy of one or both heads, their difference, and accuracy by class."""
    results = document.results
    show_setting(terminal, document)
    heads = [(name, head) for name, head in (("full", results.original), ("decomposed", results.decomposed)) if head]
    columns = ["Head", "Correct", "Top-1 %", "95% interval", "Top-5 %", "Loss"]
    rows = [[_head_name(name, results), *_accuracy_cells(head, results.total)] for name, head in heads]
    if all(head.top5 is None for _, head in heads):
        columns.pop(4)
        rows = [row[:4] + row[5:] for row in rows]
    terminal.title("Accuracy")
    terminal.print(make_table(columns, rows))
    if results.difference is not None:
        found = results.difference
        low, high = found.ci95
        terminal.print(
            f"Decomposed minus full: {found.points:+.2f} points, 95% interval {low:+.2f} to {high:+.2f}; McNemar p "
            f"{p_value(found.mcnemar_p)} ({found.only_original_correct} images only the full head gets right, "
            f"{found.only_decomposed_correct} only the decomposed)"
        )
    _show_classes(terminal, heads)


def _head_name(name: str, results: ValidateResults) -> str:
    if name == "full" or results.indices is None:
        return name
    low, high = results.indices.k
    return f"{name}, {low if low == high else f'{low} to {high}'} per class"


def _accuracy_cells(head: HeadAccuracy, total: int) -> list[str]:
    low, high = head.top1_ci95
    top5 = "" if head.top5 is None else f"{head.top5:.2f}"
    return [f"{head.correct:,} of {total:,}", f"{head.top1:.2f}", f"{low:.2f} to {high:.2f}", top5, f"{head.loss:.4f}"]


def p_value(p: float) -> str:
    """With its sign, as "= 0.0123"."""
    return "< 0.0001" if p < 1e-4 else f"= {p:.4f}"


def _show_classes(terminal: Terminal, heads: Sequence[tuple[str, HeadAccuracy]]) -> None:
    first = heads[0][1]
    numbers = [number for number, row in enumerate(first.per_class) if row.total]
    title = "Correct by class"
    if len(numbers) > _MOST_CLASSES:
        last = heads[-1][1]
        numbers.sort(key=lambda number: last.per_class[number].correct / last.per_class[number].total)
        numbers, title = numbers[:_MOST_CLASSES], f"Correct by class, the {_MOST_CLASSES} worst of {len(numbers)}"
    rows = []
    for number in numbers:
        counts = [str(head.per_class[number].correct) for _, head in heads]
        rows.append([first.per_class[number].name, str(first.per_class[number].total), *counts])
    terminal.title(title)
    terminal.print(make_table(["Class", "Images", *(name for name, _ in heads)], rows))


def show_indices(terminal: Terminal, document: ResultDocument[ExtractResults]) -> None:
    """The index sets, and the files they are in."""
    show_setting(terminal, document)
    names = document.dataset.classes if document.dataset else []
    for found in document.results.values():
        low, high = found.features_per_class
        size = f"{low}" if low == high else f"{low} to {high}"
        rows = []
        for number, indices in list(found.indices.items())[:_MOST_CLASSES]:
            shown = ", ".join(map(str, indices[:_SHOWN_INDICES])) + (", ..." if len(indices) > _SHOWN_INDICES else "")
            rows.append([names[int(number)], shown])
        title = f"{size} features per class by {found.method}, most influential first (k = {found.k})"
        terminal.title(title)
        terminal.print(make_table(["Class", "Features"], rows, left=2))
        if len(found.indices) > _MOST_CLASSES:
            terminal.print(f"... and {len(found.indices) - _MOST_CLASSES} more classes")
        if found.file:
            terminal.print(f"Indices written to {found.file}")


def show_curve(terminal: Terminal, document: ResultDocument[CurveResults]) -> None:
    """Accuracy for each number of features per class, in columns side by side."""
    results = document.results
    cells = [(str(k), str(point.correct), f"{point.top1:.2f}") for k, point in results.by_k.items()]
    height = -(-len(cells) // _CURVE_COLUMNS)
    rows = [[text for cell in cells[row::height] for text in cell] for row in range(height)]
    terminal.title(
        f"Accuracy with k features per class (full head: {results.original_correct} of {results.total} correct)"
    )
    terminal.print(make_table(["k", "Correct", "Top-1 %"] * min(_CURVE_COLUMNS, len(cells)), rows, left=0))


def show_models(terminal: Terminal, entries: Sequence[ModelEntry]) -> None:
    """The registry as a table."""
    rows = []
    for entry in entries:
        weights = entry.weights.name if isinstance(entry.weights, Path) else str(entry.weights or "").rsplit("/", 1)[-1]
        parameters = "" if entry.parameters is None else f"{entry.parameters:,}"
        accuracy = "" if entry.accuracy is None else f"{entry.accuracy:.2f}"
        rows.append(
            [entry.name, entry.dataset or "", weights, entry.source, parameters, str(entry.num_features), accuracy]
        )
    columns = ["Model", "Trained on", "Weights", "Source", "Parameters", "Features", "Top-1 %"]
    terminal.title("Models (top-1 as stated by the source)")
    terminal.print(make_table(columns, rows, left=4))
    terminal.print(
        "Also: any other torchvision classifier by its name, and package.module:callable for a network of yours."
    )


def show_layers(terminal: Terminal, found: Layers) -> None:
    """The modules of a network."""
    rows = []
    for layer in found.layers:
        marks = [mark for mark, is_set in (("head", layer.is_head), ("CAM", layer.is_cam_layer)) if is_set]
        shape = "x".join(map(str, layer.output_shape)) if layer.output_shape else ""
        rows.append([layer.name, layer.kind, ", ".join(marks), shape, f"{layer.parameters:,}"])
    height, width = found.input_size
    title = f"Modules of {found.model} for images of {height}x{width} pixels"
    terminal.title(title)
    terminal.print(make_table(["Module", "Kind", "", "Output", "Parameters"], rows, left=3))
    if found.refusal:
        terminal.warn(found.refusal)


def show_datasets(terminal: Terminal, found: Sequence[DatasetStatus]) -> None:
    """Which data sets are there."""
    rows = [[s.name, str(s.num_classes), ", ".join(s.splits), s.found or "not there", s.description] for s in found]
    terminal.title("Data sets")
    terminal.print(make_table(["Name", "Classes", "Splits", "Where", "What"], rows, left=5))
    for status in found:
        if status.found is None:
            terminal.print(f"{status.name}: looked for {', '.join(status.looked)}; {status.how_to_get}.")
    terminal.print("Also: folder:PATH for images in PATH/train|val|test/<class>/.")


def show_cache(terminal: Terminal, status: CacheStatus) -> None:
    """The entries of the feature cache."""
    rows = [[entry.description, entry.made, f"{entry.size / 1e6:.2f}"] for entry in status.entries]
    terminal.title(f"Features in {status.folder}")
    terminal.print(make_table(["What", "Made", "MB"], rows, left=2))
    terminal.print(f"{len(status.entries)} entries, {sum(entry.size for entry in status.entries) / 1e6:.1f} MB")
