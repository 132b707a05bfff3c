"""The section on how much the classes' sets overlap, beside what chance would give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from decompose_cli.decomposition.chance import by_pairs, expected_information, expected_jaccard, mean_jaccard
from decompose_cli.page.blocks import Block, Cell, Column, Fold, Grid, Group, Section, Shade, Table, Text
from decompose_cli.page.context import Context
from decompose_cli.page.documents import Source, called_set
from decompose_cli.page.ordering import clustered
from decompose_cli.printable import counted

if TYPE_CHECKING:
    from decompose_cli.decomposition.overlap_results import SetOverlap

_LEAD = (
    "The Jaccard index of two classes is the share of common features among all that either has: 0 for none, 1 for the "
    "same set. Mutual information (in nats) asks how much knowing whether a feature belongs to one class says of "
    "whether it belongs to the other; it is also positive where two classes avoid each other's features. Shown is what "
    "they are above or below sets of the same sizes that are drawn at random. Classes that share stand together."
)
_MOST_CELLS_ACROSS = 25
_MOST_PAIRS = 20
_FLAT, _DIGITS = 0.9, 3
"""From this share of pairs on that are the same, to so many digits, a matrix says nothing."""


def section(context: Context) -> Section | None:
    """Make the section from mutual-info."""
    blocks: list[Block] = []
    for source in context.of("mutual-info"):
        by_name = source.results.sets.items()
        sets = [(called_set(name), k, overlap) for name, by_k in by_name for k, overlap in by_k.items()]
        blocks.append(_means(source, sets))
        for name, k, overlap in sets:
            group = [*_set(context, source, f"{name}, k = {k}", overlap)]
            if group:
                blocks.append(Group(f"{name}, k = {k}", group))
    return Section("overlap", "Overlap and mutual information", _LEAD, blocks) if blocks else None


def _means(source: Source, sets: Sequence[tuple[str, str, SetOverlap]]) -> Table:
    rows: list[list[Cell]] = []
    for name, k, found in sets:
        sizes, observed = found.known_sizes, found.jaccard_mean
        chance = None if sizes is None else mean_jaccard(sizes, found.num_features)
        above = None if chance is None or observed is None else observed - chance
        means = [found.off_diagonal_mean, found.normalized_mean, found.mean]
        counts = [found.unused, found.exclusive, found.shared]
        rows.append([name, int(k) if k.isdecimal() else k, above, observed, chance, *counts, *means])
    return Table(
        f"Means over pairs of classes: {source.name}",
        [
            Column("Set"),
            Column("k"),
            Column("Jaccard minus chance", 4, is_signed=True),
            Column("Jaccard", 4),
            Column("by chance", 4),
            Column("Features of no class"),
            Column("of one"),
            Column("of several"),
            Column("Mutual information, different classes", 4),
            Column("normalised", 4),
            Column("all pairs (as published)", 4),
        ],
        rows,
    )


def _set(context: Context, source: Source, title: str, overlap: SetOverlap) -> Iterator[Block]:
    jaccard, information = np.asarray(overlap.jaccard_matrix, float), np.asarray(overlap.matrix, float)
    for values in (jaccard, information):
        if values.ndim != 2 or values.shape[0] != values.shape[1]:
            return
    count = len(jaccard)
    if count < 2:
        return
    order = clustered(jaccard)
    numbers = list(range(count)) if overlap.classes is None else overlap.classes
    names = [source.class_name(numbers[place]) for place in order]

    def compared(matrix: np.ndarray, expected: Callable[[int, int, int], float]) -> _Compared:
        if overlap.known_sizes is None:
            return _Compared(names, matrix[np.ix_(order, order)], None)
        sizes = [overlap.known_sizes[place] for place in order]
        return _Compared(names, matrix[np.ix_(order, order)], by_pairs(expected, sizes, overlap.num_features))

    yield from matrix_blocks(context, f"Jaccard index, {title}", compared(jaccard, expected_jaccard))
    yield from _information(context, title, compared(information, expected_information))


@dataclass(frozen=True)
class _Compared:
    """A matrix of classes by classes, and what is expected by chance, where that is known."""

    names: Sequence[str]
    observed: np.ndarray
    chance: np.ndarray | None

    @cached_property
    def values(self) -> np.ndarray:
        """What is above or below chance, or what was observed; 0 on the diagonal."""
        values = self.observed.copy() if self.chance is None else self.observed - self.chance
        np.fill_diagonal(values, 0)
        return values

    @cached_property
    def largest(self) -> float:
        """The size of the value that is farthest from 0."""
        return float(np.abs(self.values).max()) or 1.0

    def said(self, row: int, column: int) -> str:
        """A pair of classes in words."""
        text = f"{self.names[row]} and {self.names[column]}: {self.observed[row, column]:.4f}"
        if self.chance is None:
            return text
        return f"{text}, by chance {self.chance[row, column]:.4f}: {self.values[row, column]:+.4f}"


def matrix_blocks(context: Context, caption: str, found: _Compared, *, is_folded: bool = False) -> Iterator[Block]:
    """Show a matrix of classes by classes, of many classes the list of pairs that are farthest from chance first."""
    is_signed = found.chance is not None
    caption = f"{caption}, minus what chance gives" if is_signed else caption
    if len(found.names) <= _MOST_CELLS_ACROSS:
        grid = _grid(caption, found)
        yield Fold(caption, [grid]) if is_folded else grid
        return
    yield _pairs(caption, found, is_folded=is_folded)
    count = len(found.names)
    alt = f"{count} by {count} classes; the table above has the pairs with the largest values."
    names = (found.names, found.names)
    raster = context.raster(caption, alt, found.values, names, "value", is_sparse=False, darkest=found.largest)
    if raster is not None:
        yield Fold(f"{caption}: a picture of all pairs", [raster])


def _grid(caption: str, found: _Compared) -> Grid:
    is_signed, largest = found.chance is not None, found.largest
    digits = 2 if largest >= 0.1 else 3
    cells = [
        [
            Shade("", 0, "")
            if row == column
            else Shade(
                f"{value:+.{digits}f}" if is_signed else f"{value:.{digits}f}", value / largest, found.said(row, column)
            )
            for column, value in enumerate(line)
        ]
        for row, line in enumerate(found.values.tolist())
    ]
    return Grid(caption, "Class", found.names, found.names, cells, is_signed=is_signed)


def _pairs(caption: str, found: _Compared, *, is_folded: bool) -> Table:
    count = len(found.names)
    upper = np.where(np.triu(np.ones_like(found.values, dtype=bool), 1), found.values, -np.inf)
    top = np.argsort(-upper, axis=None, kind="stable")[:_MOST_PAIRS]
    columns = [Column("Class"), Column("Other class")]
    columns += [Column("Minus chance", 4, is_signed=True)] if found.chance is not None else []
    rows: list[list[Cell]] = []
    for place in top.tolist():
        row, column = divmod(place, count)
        difference: list[Cell] = [float(found.values[row, column])] if found.chance is not None else []
        rows.append([found.names[row], found.names[column], *difference, float(found.observed[row, column])])
    title = f"{caption}: the {len(top)} pairs with the largest values"
    return Table(title, [*columns, Column("Observed", 4)], rows, is_folded=is_folded)


def _information(context: Context, title: str, found: _Compared) -> Iterator[Block]:
    """Mutual information, unless nearly all pairs have the same: then a sentence says so."""
    places = np.triu_indices(len(found.names), 1)
    values = found.observed[places]
    shown, times = np.unique(values.round(_DIGITS), return_counts=True)
    common, most = float(shown[times.argmax()]), int(times.max())
    caption = f"Mutual information, {title}"
    if most < _FLAT * len(values):
        yield from matrix_blocks(context, caption, found, is_folded=True)
        return
    chance = ""
    if found.chance is not None and np.ptp(found.chance) < 1e-12:
        chance = f", as by chance ({found.chance.flat[0]:.4f} on average)"
    highest = int(values.argmax())
    row, column = int(places[0][highest]), int(places[1][highest])
    largest = f" The largest is that of {found.names[row]} and {found.names[column]}, {values[highest]:.4f}."
    yield Text(
        f"{caption}: {common:.{_DIGITS}f} nats for {most:,} of {counted(len(values), 'pair')} of classes{chance}. It "
        f"tells nearly none of them apart, so there is no matrix of it.{largest if len(shown) > 1 else ''}"
    )
