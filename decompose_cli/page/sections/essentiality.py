"""The section on essentiality: what noise on a class's features does to the class."""

from __future__ import annotations

from decompose_cli.page.blocks import Block, Column, Group, Section, Table
from decompose_cli.page.context import Context
from decompose_cli.page.documents import Source, called_set
from decompose_cli.reporting.study_plots import essentiality_figure

_LEAD = (
    "Essentiality of a class: how many more of its images stay with it when noise is put on all other features than "
    "when it is put on the class's own, in percentage points of its images. Marks are random feature sets of the same "
    "size: a set that matters stands well above them. p is the share of random sets that did as well; the "
    "class's own set is counted with them."
)
_MOST_DRAWN = 40


def section(context: Context) -> Section | None:
    """Make the section from essential."""
    blocks: list[Block] = []
    for source in context.of("essential"):
        blocks.append(Group(source.name, _blocks(context, source)))
    return Section("essentiality", "Essentiality", _LEAD, blocks) if blocks else None


def _blocks(context: Context, source: Source) -> list[Block]:
    results = source.results
    columns = [
        Column("Features and class"),
        Column("Images"),
        Column("Kept without noise"),
        Column("Kept, noise on its features", 1),
        Column("Kept, noise on all others", 1),
        Column("Essentiality, points", 2, is_signed=True),
        Column("95% interval", 2, is_signed=True),
        Column("Random sets, mean", 2, is_signed=True),
        Column("p", is_p=True),
    ]

    def row(name: str, kept: object) -> list[object]:
        fields = ("images", "clean", "noise_at_inf", "noise_at_noninf", "essentiality", "essentiality_ci95")
        return [name, *(getattr(kept, field) for field in (*fields, "control_mean", "p"))]

    methods = list(results.summary)
    whole = Table(
        f"All classes together ({results.noise} noise, {results.repeats} draws, {results.controls} random sets)",
        columns,
        [row(called_set(method), results.summary[method]) for method in methods],  # type: ignore[misc]
    )
    by_class = {called_set(method): results.by_class(method) for method in methods}
    numbers = sorted({int(number) for kept_by_class in by_class.values() for number in kept_by_class})
    values = Table(
        "By class",
        columns,
        [
            row(f"{method}, {source.class_name(int(number))}", kept)  # type: ignore[misc]
            for method, kept_by_class in by_class.items()
            for number, kept in kept_by_class.items()
        ],
        is_folded=len(numbers) > _MOST_DRAWN,
    )
    if len(numbers) > _MOST_DRAWN:
        return [whole, values]
    bars = {
        method: [
            (kept.essentiality, kept.essentiality_ci95, kept.control_mean)
            if (kept := kept_by_class.get(str(number))) is not None
            else None
            for number in numbers
        ]
        for method, kept_by_class in by_class.items()
    }
    names = [source.class_name(number) for number in numbers]
    return [whole, context.chart("Essentiality by class", essentiality_figure(names, bars), values)]
