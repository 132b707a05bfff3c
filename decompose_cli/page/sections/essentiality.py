"""The section on essentiality: what noise on a class's features does to the class."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from decompose_cli.page.blocks import Block, Cell, Column, Group, Section, Table, Text
from decompose_cli.page.context import Context
from decompose_cli.page.documents import Source, called_set
from decompose_cli.printable import counted
from decompose_cli.reporting.study_plots import essentiality_figure

if TYPE_CHECKING:
    from decompose_cli.decomposition.essential_results import Kept

_LEAD = (
    "Noise is put on the features of a class, and then on all others in their place. Features that matter are those "
    "without which images leave the class, and with which alone they stay: essentiality is how many more images stay "
    "under noise on all others than under noise on the class's own, in percentage points of its images. Random feature "
    "sets of the same size say what any set would do; p is the share of them that did as well, the class's own set "
    "being counted with them."
)
_MOST_DRAWN = 40


def section(context: Context) -> Section | None:
    """Make the section from essential."""
    blocks: list[Block] = []
    for source in context.of("essential"):
        blocks.append(Group(source.name, [*_blocks(context, source)]))
    return Section("essentiality", "Essentiality", _LEAD, blocks) if blocks else None


def _blocks(context: Context, source: Source) -> Iterator[Block]:
    results = source.results
    numbers, marks = results.marks()
    marks = {called_set(method): of_classes for method, of_classes in marks.items()}
    names = [source.class_name(number) for number in numbers]
    by_class = [
        (called_set(method), source.class_name(int(number)), kept)
        for method in results.summary
        for number, kept in results.by_class(method).items()
    ]
    whole = [(called_set(method), "all", kept) for method, kept in results.summary.items()]
    found = {kept.p for *_, kept in (*whole, *by_class)}
    smallest = 1 / (1 + results.controls)
    p_varies = any(p is not None and p > smallest * (1 + 1e-9) for p in found)
    is_long = len(numbers) > _MOST_DRAWN
    values = _table("By class", by_class, with_p=p_varies, is_folded=is_long)
    if not is_long:
        draw = partial(essentiality_figure, names, marks)
        yield context.chart("Noise on the class's own features beside noise on all others", draw, values)
    if not p_varies and found - {None}:
        sets = counted(results.controls, "random set")
        yield Text(f"p = {smallest:.2g} for every class, the smallest with {sets}: no random set did as well.")
    caption = f"All classes together ({results.noise} noise, {results.repeats} draws, {results.controls} random sets)"
    yield _table(caption, whole, with_p=p_varies)
    if is_long:
        yield values


def _table(caption: str, rows: list[tuple[str, str, Kept]], *, with_p: bool, is_folded: bool = False) -> Table:
    columns = [
        Column("Class"),
        Column("Features of"),
        Column("Essentiality, points", 2, is_signed=True),
        Column("95% interval", 2, is_signed=True),
        Column("Random sets, mean", 2, is_signed=True),
        Column("Smallest to largest", 2, is_signed=True),
        *([Column("p", is_p=True)] if with_p else []),
        Column("Images"),
        Column("Kept without noise"),
        Column("Kept, noise on its features", 1),
        Column("Kept, noise on all others", 1),
    ]

    def row(method: str, name: str, kept: Kept) -> list[Cell]:
        difference: list[Cell] = [kept.essentiality, kept.essentiality_ci95, kept.control_mean, kept.control_range]
        counts: list[Cell] = [kept.images, kept.clean, kept.noise_at_inf, kept.noise_at_noninf]
        return [name, method, *difference, *([kept.p] if with_p else []), *counts]

    return Table(caption, columns, [row(*one) for one in rows], is_folded=is_folded)
