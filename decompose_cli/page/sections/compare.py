"""The section on how index sets and heads differ: in their features, and on the same images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from decompose_cli.decomposition.compare_results import differences_figure
from decompose_cli.page.blocks import Block, Cell, Column, Group, Section, Table
from decompose_cli.page.context import Context
from decompose_cli.page.documents import Source
from decompose_cli.printable import counted

if TYPE_CHECKING:
    from decompose_cli.decomposition.compare_results import CompareResults, SetDifference
    from decompose_cli.decomposition.over_seeds import SeedDifference

_LEAD = (
    "Heads are compared image by image: the second minus the first, with Newcombe's 95% interval and the exact McNemar "
    "p. The Jaccard index of two sets is the share of common features among all that either has: 0 for none, 1 for the "
    "same set. Where a network was trained further, a feature of the same number need not be the same feature."
)
_MOST_DRAWN, _MOST_OPEN, _MOST_ROWS = 40, 30, 1000
_MOST_LISTED = 40


def section(context: Context) -> Section | None:
    """Make the section from compare."""
    blocks = [Group(source.name, [*_blocks(context, source)]) for source in context.of("compare")]
    return Section("compare", "Sets and heads compared", _LEAD, blocks) if blocks else None


def _blocks(context: Context, source: Source) -> Iterator[Block]:
    results = source.results
    shown = results.shown_differences
    if results.seed_differences:
        yield _over_seeds(results.seed_differences)
    if results.training_rows:
        yield _trainings(results)
    if results.differences:
        values = _differences(source, results)
        draw = partial(differences_figure, shown, results.seed_differences)
        is_drawn = len(shown) + len(results.seed_differences) <= _MOST_DRAWN
        yield context.chart(values.caption, draw, values) if is_drawn else values
    if results.heads:
        yield _heads(results)
    if results.unmeasured:
        rows: list[list[Cell]] = [[name, why] for name, why in results.unmeasured.items()]
        yield Table("Heads that were not measured", [Column("Set"), Column("Why: it")], rows, is_folded=True)
    if results.set_differences:
        yield _sets(results.set_differences)
    for one in results.set_differences:
        yield _classes(source, one)


def _heads(results: CompareResults) -> Table:
    is_plain = results.is_of_trainings
    columns = [Column("Network")] if is_plain else [Column("Head"), Column("Weights"), Column("Features")]
    columns += [Column("Correct"), Column("Images"), Column("Top-1 %"), Column("95% interval")]
    rows: list[list[Cell]] = []
    for name, head in results.heads.items():
        of = [] if is_plain else [head.kind, "its own" if head.own_features else "of the network"]
        rows.append([name, *of, head.correct, results.total, head.top1, head.top1_ci95])
    return Table(f"Accuracy of each {'network' if is_plain else 'head'}", columns, rows)


def _trainings(results: CompareResults) -> Table:
    """What the trainings differ in: a difference of accuracies may be due to any of it."""
    return Table(
        "What the trainings differ in", [Column("Setting"), *map(Column, results.trainings)], results.training_rows
    )


def _differences(source: Source, results: CompareResults) -> Table:
    rows: list[list[Cell]] = []
    for one in results.shown_differences:
        worst = one.worst_class
        rows.append(
            [
                f"{one.second} minus {one.first}",
                one.points,
                one.ci95,
                one.mcnemar_p,
                one.only_first_correct,
                one.only_second_correct,
                None if worst is None else source.class_name(worst.number),
                None if worst is None else worst.points,
                None if worst is None else worst.ci95,
            ]
        )
    more = len(results.differences) - len(rows)
    which = (
        f" (of trainings with common seeds those of one seed; {counted(more, 'more pair')} in the result)"
        if more
        else ""
    )
    return Table(
        f"Differences of {'networks' if results.is_of_trainings else 'heads'} on the same images{which}",
        [
            Column("Heads"),
            Column("Points", 2, is_signed=True),
            Column("95% interval", 2, is_signed=True),
            Column("McNemar p", is_p=True),
            Column("Only the first right"),
            Column("Only the second right"),
            Column("Worst class"),
            Column("Its points", 2, is_signed=True),
            Column("95% interval, all classes together", 2, is_signed=True),
        ],
        rows,
    )


def _over_seeds(differences: Sequence[SeedDifference]) -> Table:
    return Table(
        "Differences of trainings, mean over seeds, on the same images",
        [
            Column("Trainings"),
            Column("Seeds"),
            Column("Points", 2, is_signed=True),
            Column("95% interval", 2, is_signed=True),
            Column("Of seeds alone", 2, is_signed=True),
            Column("Of images alone", 2, is_signed=True),
            Column("By seed"),
            Column("Their seeds"),
        ],
        [
            [
                f"{one.second} minus {one.first}",
                len(one.seeds),
                one.points,
                one.ci95,
                one.ci95_seeds,
                one.ci95_images,
                ", ".join(f"{points:+.2f}" for points in one.by_seed),
                ", ".join(map(str, one.seeds)),
            ]
            for one in differences
        ],
    )


def _sets(differences: Sequence[SetDifference]) -> Table:
    return Table(
        "Features of every two sets",
        [
            Column("First"),
            Column("Second"),
            Column("Mean Jaccard", 3),
            Column("Classes with the same set"),
            Column("Classes"),
            Column("Used by both"),
            Column("Only by the first"),
            Column("Only by the second"),
        ],
        [
            [
                one.first,
                one.second,
                one.jaccard_mean,
                one.equal_classes,
                len(one.classes),
                len(one.used_by_both),
                len(one.used_by_first),
                len(one.used_by_second),
            ]
            for one in differences
        ],
    )


def _classes(source: Source, one: SetDifference) -> Table:
    rows, cut = one.classes, ""
    if len(rows) > _MOST_ROWS:
        rows = sorted(rows, key=lambda row: row.jaccard)[:_MOST_ROWS]
        cut = f", the {_MOST_ROWS:,} that differ most"
    return Table(
        f"Features by class: {one.first} and {one.second}{cut}",
        [Column("Class"), Column("Both"), Column("Only the first"), Column("Only the second"), Column("Jaccard", 3)],
        [
            [
                source.class_name(row.number),
                *(_listed(features) for features in (row.both, row.only_first, row.only_second)),
                row.jaccard,
            ]
            for row in rows
        ],
        is_folded=len(rows) > _MOST_OPEN,
    )


def _listed(features: Sequence[int]) -> str:
    more = len(features) - _MOST_LISTED
    return " ".join(map(str, features[:_MOST_LISTED])) + (f" and {more} more" if more > 0 else "")
