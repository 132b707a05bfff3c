"""Tables of accuracies: those of a network, and of its decomposition beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from decompose_cli.cli.console import Terminal, make_table
from decompose_cli.cli.tables.words import p_value, said_of_fits, said_of_worst
from decompose_cli.errors import first_few
from decompose_cli.printable import counted

if TYPE_CHECKING:
    from decompose_cli.decomposition.accuracy_results import HeadAccuracy, ValidateResults
    from decompose_cli.decomposition.calibration import Adjusted
    from decompose_cli.decomposition.result_types import Difference
    from decompose_cli.storage.result_document import PartOfClasses, ResultDocument

_MOST_CLASSES = 20


def show_setting(terminal: Terminal, document: ResultDocument[Any], *, chooses: bool = False) -> None:
    """Show the network, the images and the constants that a result belongs to; or the head and its features alone.

    Args:
        terminal: The terminal.
        document: The result.
        chooses: Whether the command chose features, so that classes without images have kept all of them.
    """
    from decompose_cli.storage.result_document import DatasetInfo

    model, dataset, cache = document.model, document.dataset, document.cache
    if model is None or dataset is None:
        return
    if not isinstance(dataset, DatasetInfo):
        terminal.print(
            f"Head      {counted(model.num_features, 'feature')} into {counted(model.num_classes, 'class', 'classes')}",
            f"Weights   {model.weights.source} (sha256 {model.weights.sha256[:8]})",
            f"Features  {dataset.name}, {dataset.split}: {dataset.images:,} (sha256 {dataset.fingerprint[:8]})",
        )
        return
    if cache is None:
        return
    triple = [", ".join(f"{value:g}" for value in values) for values in (dataset.mean, dataset.std)]
    states = {
        "hit": "from the cache, no forward pass",
        "miss": "computed, and kept for the next time",
        "off": "computed, not kept",
    }
    options = {name: value for name, value in model.options.items() if name != "features_only"}
    chosen = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in options.items())
    name = f"{model.name} with {chosen}" if chosen else model.name
    if len(options) < len(model.options):
        name = f"{name} without its classifier"
    averaged = ", averaged" if document.arguments.get("ema") else ""
    height, width = dataset.crop
    is_cropped = dataset.resize not in ([height, width], *([height] if height == width else []))
    resized = dataset.resize if isinstance(dataset.resize, int) else "x".join(map(str, dataset.resize))
    is_chosen = any(document.arguments.get(name) is not None for name in ("input_size", "resize", "crop"))
    seen = f", resized to {resized}" if is_cropped or is_chosen else ""
    seen += f", centre {height}x{width}" if is_cropped else ""
    terminal.print(
        f"Network   {name}: {counted(model.num_features, 'feature')} into {model.head!r}, "
        f"{counted(model.num_classes, 'class', 'classes')}",
        f"Weights   {model.weights.source} (sha256 {model.weights.sha256[:8]}){averaged}",
        f"Images    {dataset.name}, {dataset.split}: {dataset.images:,}, mean {triple[0]}, std {triple[1]}{seen}",
        f"Features  {states[cache.features]}",
        *([] if dataset.part is None else [f"Classes   {_said_of(dataset.part, chooses=chooses)}"]),
    )


def _said_of(part: PartOfClasses, *, chooses: bool) -> str:
    """What was done about classes without images."""
    some = f"{len(part.present)} of the network's {part.outputs} have images ({first_few(part.names)})"
    if part.policy == "present":
        return f"{some}; the head has no others"
    return f"{some}; the others {'keep all features' if chooses else 'can still be predicted'}"


def show_validation(terminal: Terminal, document: ResultDocument[ValidateResults]) -> None:
    """Show the accuracy of one or both heads, their difference, and accuracy by class."""
    results = document.results
    show_setting(terminal, document)
    found = {"full": results.original, "decomposed": results.decomposed, "refitted": results.refitted}
    heads = [(name, head) for name, head in found.items() if head]
    columns = ["Head", "Correct", "Top-1 %", "95% interval", "Top-5 %", "Loss"]
    rows = [[_head_name(name, results), *_accuracy_cells(head, results.total)] for name, head in heads]
    if all(head.top5 is None for _, head in heads):
        columns.pop(4)
        rows = [row[:4] + row[5:] for row in rows]
    names = document.dataset.classes if document.dataset is not None else []
    terminal.title("Accuracy")
    terminal.print(make_table(columns, rows))
    if results.difference is not None:
        terminal.print(_said("Decomposed", results.difference), said_of_worst(results.difference, names))
    if (refitted := results.refitted) is not None:
        terminal.print(_said("Refitted", refitted.difference), said_of_worst(refitted.difference, names))
        gain = refitted.gain
        low, high = gain.ci95
        terminal.print(
            f"Refitted minus decomposed: {gain.points:+.2f} points, 95% interval {low:+.2f} to {high:+.2f}; McNemar p "
            f"{p_value(gain.mcnemar_p)}",
            said_of_fits(refitted.refitting),
        )
    _show_calibration(terminal, heads, results.adjusted)
    _show_classes(terminal, heads)


def _said(name: str, difference: Difference) -> str:
    low, high = difference.ci95
    return (
        f"{name} minus full: {difference.points:+.2f} points, 95% interval {low:+.2f} to {high:+.2f}; McNemar p "
        f"{p_value(difference.mcnemar_p)} ({counted(difference.only_original_correct, 'image')} only the full "
        "head gets right, "
        f"{difference.only_decomposed_correct} only the {name.lower()})"
    )


def _show_calibration(terminal: Terminal, heads: Sequence[tuple[str, HeadAccuracy]], adjusted: Adjusted | None) -> None:
    known = [(name, head.calibration) for name, head in heads if head.calibration is not None]
    rows = [[name, f"{100 * one.ece:.2f}", f"{one.brier:.4f}", f"{one.nll:.4f}"] for name, one in known]
    terminal.title("Calibration")
    terminal.print(make_table(["Head", "ECE %", "Brier", "NLL"], rows))
    if adjusted is None:
        return
    where = "the split val" if adjusted.fitted_on == "val" else "the other half"
    terminal.title(f"On {adjusted.images:,} images, fitted on {where}")
    columns, rows = ["Head", "ECE %", "NLL"], []
    scaled = adjusted.temperature_images is not None
    columns += ["Temperature", "ECE % with it", "NLL with it"] * scaled
    columns += ["Coverage %", "95% interval", "Set size", "One class", "None"] * (adjusted.wanted is not None)
    for name, one in adjusted.heads.items():
        row = [name, f"{100 * one.before.ece:.2f}", f"{one.before.nll:.4f}"]
        if one.after is not None:
            row += [f"{one.temperature:.3f}", f"{100 * one.after.ece:.2f}", f"{one.after.nll:.4f}"]
        if one.sets is not None:
            low, high = one.sets.coverage_ci95
            row += [f"{one.sets.coverage:.2f}", f"{low:.2f} to {high:.2f}", f"{one.sets.mean_size:.2f}"]
            row += [str(one.sets.single), str(one.sets.empty)]
        rows.append(row)
    terminal.print(make_table(columns, rows))
    fits = {"temperatures": adjusted.temperature_images, "thresholds of sets": adjusted.threshold_images}
    said = [f"{images:,} images gave the {what}" for what, images in fits.items() if images is not None]
    if adjusted.wanted is not None:
        said.append(f"a coverage of {adjusted.wanted:g}% was asked for")
    terminal.print(f"{', '.join(said)}.")


def _head_name(name: str, results: ValidateResults) -> str:
    if name == "full" or results.indices is None:
        return name
    low, high = results.indices.k
    return f"{name}, {low if low == high else f'{low} to {high}'} per class"


def _accuracy_cells(head: HeadAccuracy, total: int) -> list[str]:
    low, high = head.top1_ci95
    top5 = "" if head.top5 is None else f"{head.top5:.2f}"
    return [f"{head.correct:,} of {total:,}", f"{head.top1:.2f}", f"{low:.2f} to {high:.2f}", top5, f"{head.loss:.4f}"]


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
