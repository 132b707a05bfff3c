"""``decompose compare``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer

from decompose_cli.cli.console import Terminal, make_table
from decompose_cli.cli.options.binding import command
from decompose_cli.cli.options.declaration import NETWORK, text
from decompose_cli.cli.options.inputs import MODEL_HELP
from decompose_cli.cli.output import Output, checked_output, finish, model_and_dataset
from decompose_cli.cli.tables.accuracy import show_setting
from decompose_cli.features.inputs import Inputs
from decompose_cli.printable import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from decompose_cli.decomposition.compare_results import CompareResults, SetDifference
    from decompose_cli.decomposition.over_seeds import SeedDifference
    from decompose_cli.storage.result_document import ResultDocument

_MODEL = text(
    "--model",
    metavar="MODEL",
    panel=NETWORK,
    help=f"{MODEL_HELP}Default: the network that the files name, if one does.",
)
_MOST_CLASSES, _MOST_TABLES = 20, 3


@command(replaced={"model": _MODEL})
def compare(
    inputs: Inputs,
    out: Output,
    files: Annotated[
        Optional[list[str]],
        typer.Argument(
            metavar="[NAME=]FILE...",
            help="Index files; results, or folders with one, of validate, sparsify, finetune, train, train-gate, sweep "
            "and extract-indices; checkpoints.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Compare sets of features, heads or trainings: what each class uses, and the accuracy on the same images.

    Trainings with two or more seeds in common are compared as wholes, with intervals over seeds and images.

    Example: decompose compare ours=k5.json sparse=sparsify/result.json tuned=run/best.pt
    """
    from decompose_cli.engines.compare import compare as run
    from decompose_cli.storage.result_document import default_names

    path = checked_output(out)
    document = run(inputs, files or ())
    model, dataset = document.model, document.dataset
    known = model_and_dataset(inputs) if model is None else (model.name,)
    names = default_names("compare", *((known[0], dataset.name) if model and dataset else ("index-files",)))
    finish(out, document, path, names=names, show=lambda: show_comparison(out.terminal, document))


def show_comparison(terminal: Terminal, document: ResultDocument[CompareResults]) -> None:
    """Show the differences of the heads, the heads, and what differs in the sets, as a whole and class by class."""
    show_setting(terminal, document)
    results = document.results
    if others := len({head.sha256 for head in results.heads.values() if head.own_features}):
        terminal.print(
            f"Others    {counted(others, 'more network')} with features of other weights, on the same images"
        )
    names = document.dataset.classes if document.dataset is not None else None
    if results.seed_differences:
        _show_over_seeds(terminal, results.seed_differences)
    if results.training_rows:
        _show_trainings(terminal, results)
    if results.differences:
        _show_differences(terminal, results, names or [])
    if results.heads:
        _show_heads(terminal, results)
    if not results.set_differences:
        return
    terminal.title("Features: mean Jaccard index over classes, classes with the same set, and what is used at all")
    columns = ["First", "Second", "Jaccard", "Same set", "Used by both", "Only first", "Only second"]
    terminal.print(make_table(columns, [_set_row(one) for one in results.set_differences], left=2))
    for one in results.set_differences[:_MOST_TABLES]:
        _show_classes(terminal, one, names)
    if (more := len(results.set_differences) - _MOST_TABLES) > 0:
        terminal.print(f"The classes of {more} more pairs are in the result, and in 'decompose report'.")


def _show_heads(terminal: Terminal, results: CompareResults) -> None:
    is_plain = results.is_of_trainings
    terminal.title("Accuracy of each network" if is_plain else "Accuracy of each head")
    rows = []
    for name, head in results.heads.items():
        low, high = head.top1_ci95
        of = [] if is_plain else [head.kind, "its own" if head.own_features else "of the network"]
        counts = [f"{head.correct:,} of {results.total:,}", f"{head.top1:.2f}", f"{low:.2f} to {high:.2f}"]
        rows.append([name, *of, *counts])
    columns = ["Network"] if is_plain else ["Head", "Weights", "Features"]
    terminal.print(make_table([*columns, "Correct", "Top-1 %", "95% interval"], rows, left=len(columns)))


def _show_trainings(terminal: Terminal, results: CompareResults) -> None:
    """What the trainings differ in: a difference of accuracies may be due to any of it."""
    terminal.title("What the trainings differ in")
    rows = results.training_rows
    terminal.print(make_table(["", *results.trainings], rows, left=len(rows[0])))


def _show_differences(terminal: Terminal, results: CompareResults, names: Sequence[str]) -> None:
    terminal.title(f"Second minus first {'network' if results.is_of_trainings else 'head'}, on the same images")
    rows = []
    for one in results.shown_differences:
        low, high = one.ci95
        worst = one.worst_class
        rows.append(
            [
                one.first,
                one.second,
                f"{one.points:+.2f}",
                f"{low:+.2f} to {high:+.2f}",
                "< 0.0001" if one.mcnemar_p < 1e-4 else f"{one.mcnemar_p:.4f}",
                f"{one.only_first_correct:,}",
                f"{one.only_second_correct:,}",
                "" if worst is None else f"{names[worst.number]} {worst.points:+.2f}",
            ]
        )
    columns = ["First", "Second", "Points", "95% interval", "McNemar p", "Only first", "Only second", "Worst class"]
    terminal.print(make_table(columns, rows, left=2))
    if (more := len(results.differences) - len(rows)) > 0:
        terminal.print(
            f"Of trainings with common seeds the pairs of one seed; {counted(more, 'more pair')} in the result."
        )


def _show_over_seeds(terminal: Terminal, differences: Sequence[SeedDifference]) -> None:
    terminal.title("Second minus first training, mean over seeds, on the same images")
    rows = [
        [
            one.first,
            one.second,
            f"{one.points:+.2f}",
            *(f"{low:+.2f} to {high:+.2f}" for low, high in (one.ci95, one.ci95_seeds, one.ci95_images)),
            ", ".join(f"{points:+.2f}" for points in one.by_seed),
            ", ".join(map(str, one.seeds)),
        ]
        for one in differences
    ]
    columns = ["First", "Second", "Points", "95% interval", "Of seeds alone", "Of images alone", "By seed", "Seeds"]
    terminal.print(make_table(columns, rows, left=2))


def _set_row(one: SetDifference) -> list[str]:
    return [
        one.first,
        one.second,
        "" if one.jaccard_mean is None else f"{one.jaccard_mean:.3f}",
        f"{one.equal_classes} of {len(one.classes)}",
        *(str(len(used)) for used in (one.used_by_both, one.used_by_first, one.used_by_second)),
    ]


def _show_classes(terminal: Terminal, one: SetDifference, names: Sequence[str] | None) -> None:
    found, which = one.classes, ""
    if len(found) > _MOST_CLASSES:
        found = sorted(found, key=lambda row: row.jaccard)[:_MOST_CLASSES]
        which = f", the {_MOST_CLASSES} of {len(one.classes)} that differ most"
    terminal.title(f"Features by class: {one.first} and {one.second}{which}")
    columns = ["Class", "Both", f"Only {one.first}", f"Only {one.second}", "Jaccard"]
    rows = [
        [
            str(row.number) if names is None else names[row.number],
            *(_listed(features) for features in (row.both, row.only_first, row.only_second)),
            f"{row.jaccard:.3f}",
        ]
        for row in found
    ]
    terminal.print(make_table(columns, rows, left=4))


def _listed(features: Sequence[int], most: int = 12) -> str:
    """Features by number; of many the first, and how many more."""
    shown = " ".join(map(str, features[:most]))
    return f"{shown} and {len(features) - most} more" if len(features) > most else shown
